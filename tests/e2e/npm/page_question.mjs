// Runs the script of the chat page (argument 1, a file) against the gateway (2) with a key (3): asks for a call that
// asks back, fills in its form as a person would, and prints what the page showed in the end.
import { readFileSync } from "node:fs"
import vm from "node:vm"

const [file, url, key] = process.argv.slice(2)
const html = readFileSync(file, "utf8")

// As much of a document as the page uses.
class Element {
  constructor(name) { Object.assign(this, { tagName: name.toUpperCase(), children: [], dataset: {}, words: "", value: "", type: "", id: "" }) }
  get textContent() { return this.words + this.children.map((child) => child.textContent ?? child).join(" ") }
  set textContent(words) { this.words = words; this.children = [] }
  append(...added) { for (const each of added) { if (each instanceof Element) each.parent = this; this.children.push(each) } }
  appendChild(child) { this.append(child); return child }
  replaceChildren() { this.children = [] }
  remove() { this.parent.children = this.parent.children.filter((child) => child !== this) }
  all() { return this.children.filter((child) => child instanceof Element).flatMap((child) => [child, ...child.all()]) }
  querySelectorAll(names) { return this.all().filter((each) => names.split(", ").includes(each.tagName.toLowerCase())) }
  querySelector(names) { return this.querySelectorAll(names)[0] ?? null }
  setCustomValidity() {}
  reportValidity() {}
  focus() {}
}
const body = new Element("body")
for (const id of ["version", "state", "what", "log", "how", "enter", "key", "say", "text", "stop", "facts"]) {
  const element = new Element("div")
  element.id = id
  body.append(element)
}
const byId = (id) => body.all().find((element) => element.id === id) ?? null
byId("facts").textContent = html.match(/id="facts"[^>]*>([^<]*)</)[1]
const kept = () => { const map = new Map(); return { getItem: (name) => map.get(name) ?? null, setItem: (name, value) => map.set(name, value), removeItem: (name) => map.delete(name) } }
const page = vm.createContext({
  document: { getElementById: byId, createElement: (name) => new Element(name) },
  location: { pathname: "/", origin: url }, history: { replaceState() {} },
  sessionStorage: kept(), localStorage: kept(),
  WebSocket, crypto, setTimeout, URL, console,
})
vm.runInContext(html.match(/<script nonce="[^"]*">([\s\S]*?)<\/script>/)[1], page)

async function until(found) {
  const end = Date.now() + 15_000
  for (;;) {
    const it = found()
    if (it) return it
    if (Date.now() > end) throw new Error(`this never came; the page shows: ${byId("log").textContent}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
const submit = (form) => form.onsubmit({ preventDefault() {} })
const say = (words) => { byId("text").value = words; submit(byId("say")) }
const form = () => byId("log").querySelector("form")

byId("key").value = key
submit(byId("enter"))
await until(() => byId("state").textContent.startsWith("connected"))
say('call book {"city": "Rome"}')
await until(form)
const [nights, view, breakfast] = form().querySelectorAll("input, select")
nights.value = "2"
view.value = view.children.find((option) => option.textContent === "sea").value
breakfast.checked = true
submit(form())
await until(() => !form() && byId("log").textContent.includes("book answered"))
say("call confirm {}")
await until(form)
const asked = byId("log").textContent
form().querySelectorAll("button").find((button) => button.textContent === "Decline").onclick()
await until(() => !form() && byId("log").textContent.includes("confirm answered"))
console.log(JSON.stringify({ asked, shown: byId("log").textContent }))
process.exit(0)
