// Sessions over HTTPS through a TypeScript SDK, 1.x or 2.x, as its users write them; prints what they see.
//
// node secure.mjs PLAN: the plan names the URL, the call, the mode (ts1, legacy, auto, pin) and the ways in.
// Whom to trust is said by $NODE_EXTRA_CA_CERTS.

import { readFileSync } from "node:fs";

const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
const first = plan.mode === "ts1";
const { Client, StreamableHTTPClientTransport } = first
  ? {
      ...(await import("@modelcontextprotocol/sdk/client/index.js")),
      ...(await import("@modelcontextprotocol/sdk/client/streamableHttp.js")),
    }
  : await import("@modelcontextprotocol/client");
const negotiation = {
  auto: { versionNegotiation: { mode: "auto" } },
  pin: { versionNegotiation: { mode: { pin: "2026-07-28" } } },
}[plan.mode];

// The agent of the built-in fetch takes certificates and is not exported; it is there after the first use.
await fetch("data:,");
const Agent = globalThis[Symbol.for("undici.globalDispatcher.1")].constructor;

function transportFor(way) {
  const options = { requestInit: {} };
  if (way.certificate) {
    const connect = { cert: readFileSync(`${way.certificate}.crt`), key: readFileSync(`${way.certificate}.key`) };
    options.requestInit.dispatcher = new Agent({ connect });
  }
  if (way.bearer && first) options.requestInit.headers = { Authorization: `Bearer ${way.bearer}` };
  if (way.bearer && !first) options.authProvider = { token: async () => way.bearer };
  const wire = {};
  const seen = async (input, init) => {
    wire.version = new Headers(init?.headers).get("mcp-protocol-version") ?? wire.version;
    const response = await fetch(input, init);
    wire.status = response.status;
    wire.challenge = response.headers.get("www-authenticate");
    return response;
  };
  const transport = new StreamableHTTPClientTransport(new URL(plan.url), { ...options, fetch: seen });
  return [transport, wire];
}

// What an error is made of: itself, and what each was raised from.
function causes(error) {
  if (!(error instanceof Error)) return [];
  const own = { name: error.constructor.name, code: error.code ?? null, message: error.message };
  return [own, ...causes(error.cause), ...causes(error.data?.cause)];
}

async function session(way) {
  const client = new Client({ name: "secure", version: "1.0.0" }, { capabilities: {}, ...negotiation });
  const [transport, wire] = transportFor(way);
  try {
    await client.connect(transport);
    const { tools } = await client.listTools();
    const progress = [];
    const options = { onprogress: (told) => progress.push(told.progress) };
    const { content } = await (first
      ? client.callTool(plan.call, undefined, options)
      : client.callTool(plan.call, options));
    const names = tools.map((tool) => tool.name);
    return { server: client.getServerVersion()?.name, tools: names, text: content[0].text, progress: progress.length, version: wire.version };
  } catch (error) {
    return { errors: causes(error), status: wire.status, challenge: wire.challenge };
  } finally {
    await transport.terminateSession?.().catch(() => {});
    await client.close();
  }
}

for (const way of plan.ways) {
  process.stdout.write(JSON.stringify({ way: way.name, ...(await session(way)) }) + "\n");
}
process.exit(0);
