// One session through a TypeScript SDK, 1.x or 2.x, as its users write it; prints what they see.
//
// node sdk.mjs PLAN: the plan names the server, the calls and the mode (ts1, legacy, auto, pin).

import { readFileSync } from "node:fs";

const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
const first = plan.mode === "ts1";
const { Client } = await import(
  first ? "@modelcontextprotocol/sdk/client/index.js" : "@modelcontextprotocol/client"
);
const { StdioClientTransport } = await import(
  first ? "@modelcontextprotocol/sdk/client/stdio.js" : "@modelcontextprotocol/client/stdio"
);

const notices = [];
const say = (what, value) => process.stdout.write(JSON.stringify([what, value]) + "\n");

const negotiation = {
  legacy: {},
  auto: { versionNegotiation: { mode: "auto" } },
  pin: { versionNegotiation: { mode: { pin: "2026-07-28" } } },
}[plan.mode];
const client = new Client(
  { name: "fidelity", version: "1.0.0" },
  { capabilities: { roots: { listChanged: true }, sampling: {}, elicitation: {} }, ...negotiation },
);

const handlers = {
  "roots/list": async () => ({ roots: [{ uri: `file://${plan.cwd}`, name: "work" }] }),
  "sampling/createMessage": async () => ({
    role: "assistant", model: "none", content: { type: "text", text: "yes" },
  }),
  "elicitation/create": async () => ({ action: "accept", content: { name: "Ada" } }),
};
if (first) {
  const types = await import("@modelcontextprotocol/sdk/types.js");
  client.setRequestHandler(types.ListRootsRequestSchema, handlers["roots/list"]);
  client.setRequestHandler(types.CreateMessageRequestSchema, handlers["sampling/createMessage"]);
  client.setRequestHandler(types.ElicitRequestSchema, handlers["elicitation/create"]);
} else {
  for (const [method, handler] of Object.entries(handlers)) client.setRequestHandler(method, handler);
}
client.fallbackNotificationHandler = async (notice) => void notices.push(notice);

const step = async (what, run) => {
  try {
    say(what, await run());
  } catch (error) {
    say(what, { error: { code: error.code ?? null, message: String(error.message) } });
  }
};

const transport = new StdioClientTransport({
  command: plan.command, args: plan.args, env: plan.env, cwd: plan.cwd, stderr: "inherit",
});
await client.connect(transport);
// The SDK drops progress that arrives together with the answer, so it is noted where it arrives.
const progress = [];
const hears = transport.onmessage;
transport.onmessage = (message, ...more) => {
  if (message.method === "notifications/progress") progress.push(message.params);
  hears(message, ...more);
};
say("server", client.getServerVersion());
say("capabilities", client.getServerCapabilities());
// A server that asks for roots does so now; what comes later is not disturbed by it.
await new Promise((done) => setTimeout(done, 600));

const call = (name, args, options) =>
  first
    ? client.callTool({ name, arguments: args }, undefined, options)
    : client.callTool({ name, arguments: args }, options);

await step("tools", () => client.listTools());
await step("resources", () => client.listResources());
await step("templates", () => client.listResourceTemplates());
await step("prompts", () => client.listPrompts());
for (const { name, arguments: args } of plan.calls) {
  progress.length = 0;
  await step(name, () => call(name, args, { onprogress: () => {} }));
  say("progress", progress);
}
for (const uri of plan.resources) await step(uri, () => client.readResource({ uri }));
for (const prompt of plan.prompts) await step(prompt.name, () => client.getPrompt(prompt));
for (const { ref, argument } of plan.completions) await step("complete", () => client.complete({ ref, argument }));
await step("no-such-tool", () => call("no-such-tool", {}));
if (client.setLoggingLevel) await step("level", () => client.setLoggingLevel("warning"));
const watched = plan.resources[0];
if (watched && client.subscribeResource) {
  await step("subscribe", () => client.subscribeResource({ uri: watched }));
  await step("unsubscribe", () => client.unsubscribeResource({ uri: watched }));
}
const slow = {
  fixture: ["sleep", { ms: 3000 }],
  everything: ["trigger-long-running-operation", { duration: 2, steps: 1 }],
}[plan.server];
if (slow) {
  const abort = new AbortController();
  setTimeout(() => abort.abort("no longer wanted"), 200);
  await step("cancel", () => call(slow[0], slow[1], { signal: abort.signal }));
}
await step("ping", () => client.ping());
await client.close();
say("notices", notices.map((notice) => JSON.stringify(notice)).sort());
process.exit(0);
