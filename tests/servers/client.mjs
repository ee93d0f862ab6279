// A client for the scenarios of @modelcontextprotocol/conformance that test clients. The URL of the
// scenario's server is the last argument; those before it are a program that makes of it a stdio server
// (`{url}` stands for it), or none: then the SDK speaks HTTP by itself.
//
// Revisions with a handshake go through the SDK, whose package is at $SDK. The one without is spoken by hand,
// because what is tested there is what the program before us writes into headers.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const words = process.argv.slice(2);
const url = words.pop();
const command = words.map((word) => word.replaceAll("{url}", url));
const scenario = process.env.MCP_CONFORMANCE_SCENARIO ?? "";
const context = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? "{}");
const modern = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION === "2026-07-28";

const argument = (schema) =>
  ({ number: 5, integer: 5, boolean: true, array: [], object: {} })[schema?.type] ?? "text";
const argumentsOf = (tool, tools) => {
  if (tool.name === "json_schema_echo") {
    // It wants to see what came of another tool's schema on its way.
    return { schema: tools.find((it) => it.name === "json_schema_2020_12_tool")?.inputSchema };
  }
  const properties = Object.entries(tool.inputSchema?.properties ?? {});
  return Object.fromEntries(properties.map(([key, schema]) => [key, argument(schema)]));
};

async function legacy() {
  const from = (path) => import(`${process.env.SDK}/dist/esm/${path}.js`);
  const { Client } = await from("client/index");
  const { ElicitRequestSchema } = await from("types");
  const capabilities = { elicitation: { form: { applyDefaults: true } } };
  const client = new Client({ name: "conformance", version: "1" }, { capabilities });
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: {} }));
  let transport;
  if (command.length > 0) {
    const { StdioClientTransport } = await from("client/stdio");
    const env = { ...process.env };
    transport = new StdioClientTransport({ command: command[0], args: command.slice(1), env, stderr: "inherit" });
  } else {
    const { StreamableHTTPClientTransport } = await from("client/streamableHttp");
    transport = new StreamableHTTPClientTransport(new URL(url));
  }
  await client.connect(transport);
  const { tools } = await client.listTools();
  for (const tool of scenario === "initialize" ? [] : tools) {
    await client.callTool({ name: tool.name, arguments: argumentsOf(tool, tools) });
  }
  await client.close();
}

async function byHand() {
  const child = spawn(command[0], command.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
  const waiting = new Map();
  createInterface({ input: child.stdout }).on("line", (line) => {
    const message = JSON.parse(line);
    waiting.get(message.id)?.(message);
  });
  let last = 0;
  const ask = (method, params = {}) =>
    new Promise((resolve) => {
      const id = ++last;
      waiting.set(id, resolve);
      const _meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { name: "conformance", version: "1" },
        "io.modelcontextprotocol/clientCapabilities": { elicitation: {} },
      };
      child.stdin.write(JSON.stringify({ jsonrpc: "2.0", id, method, params: { ...params, _meta } }) + "\n");
    });
  await ask("server/discover");
  const tools = (await ask("tools/list")).result?.tools ?? [];
  const calls = context.toolCalls ?? tools.map((tool) => ({ name: tool.name, arguments: argumentsOf(tool, tools) }));
  for (const call of calls) {
    let answer = await ask("tools/call", { name: call.name, arguments: call.arguments });
    for (let round = 0; answer.result?.resultType === "input_required" && round < 5; round += 1) {
      const { inputRequests, requestState } = answer.result;
      const inputResponses = Object.fromEntries(
        Object.keys(inputRequests ?? {}).map((key) => [key, { action: "accept", content: { confirmed: true } }]));
      const more = { inputResponses, ...(requestState === undefined ? {} : { requestState }) };
      answer = await ask("tools/call", { name: call.name, arguments: call.arguments, ...more });
    }
  }
  for (const resource of (await ask("resources/list")).result?.resources ?? []) {
    await ask("resources/read", { uri: resource.uri });
  }
  for (const prompt of (await ask("prompts/list")).result?.prompts ?? []) {
    await ask("prompts/get", { name: prompt.name });
  }
  child.stdin.end();
  await new Promise((resolve) => child.on("close", resolve));
}

await (modern ? byHand() : legacy());
