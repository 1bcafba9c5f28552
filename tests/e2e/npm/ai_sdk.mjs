// The scenarios of test_npm.py with the AI SDK's chat, as its hooks use it. Prints what it has at the end as JSON.
import { AbstractChat, DefaultChatTransport } from "ai";

const [url, key, scenario, context] = process.argv.slice(2);

class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => void (this.messages = [...this.messages, message]);
  popMessage = () => void (this.messages = this.messages.slice(0, -1));
  replaceMessage = (at, message) => void (this.messages = this.messages.with(at, this.snapshot(message)));
  snapshot = (thing) => structuredClone(thing);
}

class Chat extends AbstractChat {
  constructor(init) {
    super({ ...init, state: new State() });
  }
}

const finished = [];
const called = [];
const base = `${url}/v1/contexts/${context}`;

function open(id) {
  return new Chat({
    id,
    transport: new DefaultChatTransport({
      api: `${base}/messages?format=ai-sdk`,
      headers: { "X-API-Key": key },
      prepareReconnectToStreamRequest: () => ({ api: `${base}/stream?format=ai-sdk` }),
    }),
    onToolCall: ({ toolCall }) => void called.push(toolCall.toolCallId),
    onFinish: ({ finishReason, isAbort, isError }) => void finished.push({ finishReason, isAbort, isError }),
  });
}

const chat = open(context);
const text = (message) => message.parts.map((part) => part.text ?? "").join("");

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

const scenarios = {
  async one_turn() {
    await chat.sendMessage({ id: "msg_user", role: "user", parts: [{ type: "text", text: "hello" }] });
    return { called };
  },
  async two_turns() {
    await chat.sendMessage({ text: "hello" });
    await chat.sendMessage({ text: "calc 6 * 7" });
    return {};
  },
  async regenerate() {
    await chat.sendMessage({ text: "hello" });
    const first = chat.messages.at(-1);
    await chat.regenerate();
    await chat.sendMessage({ text: "and more" });
    return { first };
  },
  async edit() {
    await chat.sendMessage({ text: "hello" });
    await chat.sendMessage({ text: "goodbye", messageId: chat.messages[0].id });
    return {};
  },
  async stop_and_resume() {
    const sent = chat.sendMessage({ text: "long 300" });
    await until(() => chat.lastMessage?.role === "assistant" && text(chat.lastMessage).length > 10);
    await chat.stop();
    await sent;
    const before = text(chat.lastMessage);
    await chat.resumeStream();
    const after = text(chat.lastMessage);
    await chat.resumeStream(); // nothing goes on
    return { before, after };
  },
};

const said = await scenarios[scenario]();
console.log(JSON.stringify({ ...said, finished, error: chat.error?.message ?? null, messages: chat.messages }));
process.exit(0);
