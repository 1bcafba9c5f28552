// The scenarios of test_npm.py with the AG-UI client. Prints what the client has at the end as one line of JSON.
import { HttpAgent } from "@ag-ui/client";

const [url, key, scenario, context] = process.argv.slice(2);

const agent = new HttpAgent({
  url: `${url}/v1/contexts/${context}/messages?format=ag-ui`,
  headers: { "X-API-Key": key },
  threadId: context,
});
const runs = [];
const watch = {
  onRunFinishedEvent: ({ event }) => void runs.push(event.outcome?.type ?? "success"),
  onRunErrorEvent: ({ event }) => void runs.push(`error ${event.code}`),
};

async function ask(id, content, subscriber = {}) {
  agent.addMessage({ id, role: "user", content });
  return await agent.runAgent({}, { ...watch, ...subscriber });
}

async function post(path, body) {
  const headers = { "X-API-Key": key, "content-type": "application/json" };
  const reply = await fetch(`${url}/v1/contexts/${context}/${path}`, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
  });
  if (!reply.ok) throw new Error(await reply.text());
}

const scenarios = {
  async one_turn() {
    const asked = [];
    await ask("msg_user", "hello", { onCustomEvent: ({ event }) => void asked.push(event.name) });
    return { asked };
  },
  async two_turns() {
    await ask("q1", "hello");
    const { newMessages } = await ask("q2", "calc 6 * 7");
    return { added: newMessages.map((message) => message.role) };
  },
  async abort_and_run_again() {
    let pieces = 0;
    const stop = { onTextMessageContentEvent: () => void (++pieces === 5 && agent.abortRun()) };
    await ask("q1", "long 300", stop).catch(() => undefined);
    const before = agent.messages.at(-1).content;
    await agent.runAgent({}, watch);
    return { before };
  },
  async cancel() {
    let pieces = 0;
    const stop = { onTextMessageContentEvent: () => void (++pieces === 5 && post("cancel", { id: "stop", turn_id: "q1" })) };
    await ask("q1", "long 100000", stop);
    return {};
  },
};

const said = await scenarios[scenario]();
console.log(JSON.stringify({ ...said, runs, messages: agent.messages }));
process.exit(0);
