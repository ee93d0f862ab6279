// A server, without an SDK, that offers what the scenarios of @modelcontextprotocol/conformance
// want from a server, in every revision from 2025-03-26 to 2026-07-28.
//
// node conformance.mjs [http=PORT]: on stdio, or on HTTP at 127.0.0.1:PORT/mcp. There it holds its client to
// headers that say what the body says, and to sessions, and knows neither Host nor Origin.
import { AsyncLocalStorage } from "node:async_hooks";
import { createHmac, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";

const VERSION = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES = "io.modelcontextprotocol/clientCapabilities";
const LOG_LEVEL = "io.modelcontextprotocol/logLevel";
const SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId";
const LEGACY = ["2025-03-26", "2025-06-18", "2025-11-25"];
const KEY = randomBytes(32);
const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
const WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

// On HTTP what is said while a request is worked on goes to its own stream.
const place = new AsyncLocalStorage();
const send = (message) => {
  const line = { jsonrpc: "2.0", ...message };
  const say = place.getStore();
  if (say) say(line);
  else process.stdout.write(JSON.stringify(line) + "\n");
};
const notify = (method, params) => send({ method, params });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const text = (text) => ({ content: [{ type: "text", text }] });

class Failure extends Error {
  constructor(code, message, data) {
    super(message);
    this.code = code;
    this.data = data;
  }
}

// Questions to the client, of the revisions that have them.
let asked = 0;
const waiting = new Map();
const ask = (method, params) =>
  new Promise((resolve, reject) => {
    const id = `server-${++asked}`;
    waiting.set(id, (answer) =>
      answer.error ? reject(new Failure(answer.error.code, answer.error.message)) : resolve(answer.result));
    send({ id, method, params });
  });

let client = {};
let level = "info";
const LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
const log = (call, data) => {
  const wanted = call.modern ? call.meta[LOG_LEVEL] : level;
  if (wanted && LEVELS.indexOf("info") >= LEVELS.indexOf(wanted)) {
    notify("notifications/message", { level: "info", logger: "conformance", data });
  }
};

// 2026-07-28: streams that clients listen to, by the id of their request.
const streams = new Map();
const tell = (wish, method) => {
  for (const [id, { wishes, say }] of streams) {
    if (wishes[wish]) place.run(say, () => notify(method, { _meta: { [SUBSCRIPTION]: id } }));
  }
};
const changed = (kind) => {
  tell(`${kind}ListChanged`, `notifications/${kind}/list_changed`);
  if (client.legacy) notify(`notifications/${kind}/list_changed`);
};

const object = (properties = {}, required = []) => ({ type: "object", properties, ...(required.length && { required }) });
const string = (extra = {}) => ({ type: "string", ...extra });
const form = (message, properties, required) => ({
  method: "elicitation/create",
  params: { message, requestedSchema: object(properties, required) },
});
const sample = (prompt, maxTokens) => ({
  method: "sampling/createMessage",
  params: { messages: [{ role: "user", content: { type: "text", text: prompt } }], maxTokens },
});
const roots = { method: "roots/list", params: {} };
const want = (inputRequests, requestState) => ({ resultType: "input_required", inputRequests, ...(requestState && { requestState }) });
const seal = (state) => `${state}.${createHmac("sha256", KEY).update(state).digest("hex")}`;
const unseal = (sealed) => {
  const state = String(sealed).split(".")[0];
  if (seal(state) !== sealed) throw new Failure(-32602, "requestState is not ours");
  return state;
};
const accepted = (answer, key) => (answer?.action === "accept" ? answer.content?.[key] : undefined);

async function elicit(message, properties, required, words) {
  if (!client.capabilities?.elicitation) throw new Failure(-32602, "the client has no elicitation");
  const answer = await ask("elicitation/create", { message, requestedSchema: object(properties, required) });
  return text(`${words}: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
}

const titled = (n, values, key) => values.map((title, at) => ({ const: `${key}${at + 1}`, title })).slice(0, n);
const options = ["option1", "option2", "option3"];

// Name, description, schema, what it does; `era` where only one era can do it.
const TOOLS = {
  test_simple_text: { run: () => text("This is a simple text response for testing.") },
  test_image_content: { run: () => ({ content: [{ type: "image", data: PNG, mimeType: "image/png" }] }) },
  test_audio_content: { run: () => ({ content: [{ type: "audio", data: WAV, mimeType: "audio/wav" }] }) },
  test_embedded_resource: {
    run: () => ({ content: [{ type: "resource", resource: { uri: "test://embedded-resource", mimeType: "text/plain", text: "This is an embedded resource content." } }] }),
  },
  test_multiple_content_types: {
    run: () => ({
      content: [
        { type: "text", text: "Multiple content types test:" },
        { type: "image", data: PNG, mimeType: "image/png" },
        { type: "resource", resource: { uri: "test://mixed-content-resource", mimeType: "application/json", text: '{"test":"data","value":123}' } },
      ],
    }),
  },
  test_error_handling: { run: () => ({ isError: true, ...text("This tool intentionally returns an error for testing") }) },
  test_tool_with_logging: {
    run: async (call) => {
      log(call, "Tool execution started");
      await sleep(50);
      log(call, "Tool processing data");
      await sleep(50);
      log(call, "Tool execution completed");
      return text("Tool with logging executed successfully");
    },
  },
  test_logging_tool: {
    run: (call) => {
      log(call, "a log line");
      return text("logged, if it was wanted");
    },
  },
  test_tool_with_progress: {
    run: async (call) => {
      for (const progress of [0, 50, 100]) {
        const progressToken = call.meta.progressToken;
        if (progressToken !== undefined) notify("notifications/progress", { progressToken, progress, total: 100 });
        await sleep(50);
      }
      return text(String(call.meta.progressToken ?? "no token"));
    },
  },
  test_reconnection: {
    run: async (call) => {
      log(call, "about to wait");
      await sleep(100);
      return text("Reconnection test completed successfully.");
    },
  },
  test_sampling: {
    schema: object({ prompt: string() }, ["prompt"]),
    run: async (call) => {
      if (!client.capabilities?.sampling) throw new Failure(-32602, "the client has no sampling");
      const answer = await ask("sampling/createMessage", sample(call.arguments.prompt, 100).params);
      return text(`LLM response: ${answer.content?.text}`);
    },
  },
  test_elicitation: {
    schema: object({ message: string() }, ["message"]),
    run: (call) =>
      elicit(call.arguments.message, { username: string({ description: "User's response" }), email: string({ description: "User's email address" }) }, ["username", "email"], "User response"),
  },
  test_elicitation_sep1034_defaults: {
    run: () =>
      elicit("Defaults of all kinds", {
        name: string({ default: "John Doe" }),
        age: { type: "integer", default: 30 },
        score: { type: "number", default: 95.5 },
        status: string({ enum: ["active", "inactive", "pending"], default: "active" }),
        verified: { type: "boolean", default: true },
      }, [], "Elicitation completed"),
  },
  test_elicitation_sep1330_enums: {
    run: () =>
      elicit("Choices of all kinds", {
        untitledSingle: string({ enum: options }),
        titledSingle: string({ oneOf: titled(3, ["First Option", "Second Option", "Third Option"], "value") }),
        legacyEnum: string({ enum: ["opt1", "opt2", "opt3"], enumNames: ["Option One", "Option Two", "Option Three"] }),
        untitledMulti: { type: "array", items: string({ enum: options }) },
        titledMulti: { type: "array", items: { anyOf: titled(3, ["First Choice", "Second Choice", "Third Choice"], "value") } },
      }, [], "Elicitation completed"),
  },
  json_schema_2020_12_tool: {
    description: "Tool with JSON Schema 2020-12 features",
    schema: {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      type: "object",
      $defs: { address: { $anchor: "addressDef", type: "object", properties: { street: { type: "string" }, city: { type: "string" } } } },
      properties: { name: { type: "string" }, address: { $ref: "#/$defs/address" }, contactMethod: { type: "string", enum: ["phone", "email"] }, phone: { type: "string" }, email: { type: "string" } },
      allOf: [{ anyOf: [{ required: ["phone"] }, { required: ["email"] }] }],
      if: { properties: { contactMethod: { const: "phone" } }, required: ["contactMethod"] },
      then: { required: ["phone"] },
      else: { required: ["email"] },
      additionalProperties: false,
    },
    run: () => text("valid"),
  },
  test_x_mcp_header: {
    schema: object({ region: string({ "x-mcp-header": "Region" }), priority: { type: "integer", "x-mcp-header": "Priority" } }),
    run: (call) => text(`region=${call.arguments.region}`),
  },
  test_missing_capability: {
    run: (call) => {
      const able = call.modern ? call.meta[CAPABILITIES] : client.capabilities;
      if (!able?.sampling) throw new Failure(-32021, "Missing required client capability", { requiredCapabilities: { sampling: {} } });
      return text("the client has sampling");
    },
  },
  test_streaming_elicitation: {
    run: (call) => (call.responses?.user_name ? text("done") : want({ user_name: form("What is your name?", { name: string() }, ["name"]) })),
  },
  test_trigger_tool_change: { run: () => (changed("tools"), text("changed")) },
  test_trigger_prompt_change: { run: () => (changed("prompts"), text("changed")) },
  test_input_required_result_elicitation: {
    run: (call) => {
      const name = accepted(call.responses?.user_name, "name");
      return typeof name === "string" ? text(`Hello, ${name}!`) : want({ user_name: form("What is your name?", { name: string() }, ["name"]) });
    },
  },
  test_input_required_result_sampling: {
    run: (call) => {
      const answer = call.responses?.capital_question;
      return answer?.content ? text(String(answer.content.text)) : want({ capital_question: sample("What is the capital of France?", 100) });
    },
  },
  test_input_required_result_list_roots: {
    run: (call) => {
      const answer = call.responses?.client_roots;
      return Array.isArray(answer?.roots) ? text(answer.roots.map((root) => root.uri).join(", ")) : want({ client_roots: roots });
    },
  },
  test_input_required_result_request_state: {
    run: (call) => {
      const ok = accepted(call.responses?.confirm, "ok");
      if (ok !== undefined && unseal(call.state) === "confirming") return text("state-ok");
      return want({ confirm: form("Please confirm", { ok: { type: "boolean" } }, ["ok"]) }, seal("confirming"));
    },
  },
  test_input_required_result_multiple_inputs: {
    run: (call) => {
      const { user_name, greeting, client_roots } = call.responses ?? {};
      if (user_name && greeting && client_roots && unseal(call.state) === "three") return text("all three came");
      return want({ user_name: form("What is your name?", { name: string() }, ["name"]), greeting: sample("Generate a greeting", 50), client_roots: roots }, seal("three"));
    },
  },
  test_input_required_result_multi_round: {
    run: (call) => {
      const state = call.state === undefined ? "" : unseal(call.state);
      if (state === "two" && call.responses?.step2) return text("both rounds are done");
      if (state === "one" && call.responses?.step1) return want({ step2: form("Step 2: What is your favorite color?", { color: string() }, ["color"]) }, seal("two"));
      return want({ step1: form("Step 1: What is your name?", { name: string() }, ["name"]) }, seal("one"));
    },
  },
  test_input_required_result_tampered_state: {
    run: (call) => {
      if (call.state !== undefined && unseal(call.state) === "sealed") return text("state-ok");
      return want({ confirm: form("Please confirm", { ok: { type: "boolean" } }, ["ok"]) }, seal("sealed"));
    },
  },
  test_input_required_result_capabilities: {
    run: (call) => {
      if (call.responses) return text("done");
      const able = call.meta[CAPABILITIES] ?? {};
      const questions = {};
      if (able.sampling) questions.sampled = sample("Say yes.", 10);
      if (able.elicitation) questions.elicited = form("Say yes.", { yes: { type: "boolean" } }, ["yes"]);
      if (able.roots) questions.listed = roots;
      return Object.keys(questions).length ? want(questions) : text("the client can answer nothing");
    },
  },
};

const user = (content) => ({ role: "user", content });
const PROMPTS = {
  test_simple_prompt: { run: () => [user({ type: "text", text: "This is a simple prompt for testing." })] },
  test_prompt_with_arguments: {
    arguments: ["arg1", "arg2"],
    run: ({ arg1, arg2 }) => [user({ type: "text", text: `Prompt with arguments: arg1='${arg1}', arg2='${arg2}'` })],
  },
  test_prompt_with_embedded_resource: {
    arguments: ["resourceUri"],
    run: ({ resourceUri }) => [
      user({ type: "resource", resource: { uri: resourceUri, mimeType: "text/plain", text: "Embedded resource content for testing." } }),
      user({ type: "text", text: "Please process the embedded resource above." }),
    ],
  },
  test_prompt_with_image: {
    run: () => [user({ type: "image", data: PNG, mimeType: "image/png" }), user({ type: "text", text: "Please analyze the image above." })],
  },
  test_input_required_result_prompt: {
    run: (_, call) => {
      const context = accepted(call.responses?.user_context, "context");
      return context === undefined
        ? want({ user_context: form("What context should the prompt use?", { context: string() }, ["context"]) })
        : [user({ type: "text", text: `In the context of ${context}.` })];
    },
  },
};

const RESOURCES = {
  "test://static-text": { mimeType: "text/plain", text: "This is the content of the static text resource." },
  "test://static-binary": { mimeType: "image/png", blob: PNG },
  "test://watched-resource": { mimeType: "text/plain", text: "Watched." },
};
const read = (uri) => {
  const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
  if (id) return { mimeType: "application/json", text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) };
  return RESOURCES[uri];
};

const ABLE = (modern) => ({
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: modern ? { listChanged: true } : { subscribe: true, listChanged: true },
  completions: {},
  logging: {},
});
const INFO = { name: "conformance-fixture", version: "1.0.0" };

// What both eras have.
const METHODS = {
  "tools/list": () => ({
    tools: Object.entries(TOOLS).map(([name, tool]) => ({ name, description: tool.description ?? `The tool ${name}`, inputSchema: tool.schema ?? object() })),
  }),
  "tools/call": async (call) => {
    const tool = Object.hasOwn(TOOLS, call.params.name) && TOOLS[call.params.name];
    if (!tool) throw new Failure(-32602, `Unknown tool: ${call.params.name}`);
    return tool.run(call);
  },
  "resources/list": () => ({
    resources: Object.entries(RESOURCES).map(([uri, { mimeType }]) => ({ uri, name: uri.slice(7), description: `The resource ${uri}`, mimeType })),
  }),
  "resources/templates/list": () => ({
    resourceTemplates: [{ uriTemplate: "test://template/{id}/data", name: "template", description: "Data by id", mimeType: "application/json" }],
  }),
  "resources/read": (call) => {
    const { uri } = call.params;
    const content = read(uri);
    if (!content) throw new Failure(call.modern ? -32602 : -32002, "Resource not found", { uri });
    return { contents: [{ uri, ...content }] };
  },
  "prompts/list": () => ({
    prompts: Object.entries(PROMPTS).map(([name, prompt]) => ({
      name,
      description: `The prompt ${name}`,
      arguments: (prompt.arguments ?? []).map((argument) => ({ name: argument, description: argument, required: true })),
    })),
  }),
  "prompts/get": async (call) => {
    const prompt = Object.hasOwn(PROMPTS, call.params.name) && PROMPTS[call.params.name];
    if (!prompt) throw new Failure(-32602, `Unknown prompt: ${call.params.name}`);
    const messages = await prompt.run(call.arguments, call);
    return Array.isArray(messages) ? { messages } : messages;
  },
  "completion/complete": () => ({ completion: { values: ["paris", "park", "party"], total: 3, hasMore: false } }),
};
const OLD = {
  initialize: ({ params }) => {
    client = { legacy: true, capabilities: params.capabilities };
    const protocolVersion = LEGACY.includes(params.protocolVersion) ? params.protocolVersion : "2025-11-25";
    return { protocolVersion, capabilities: ABLE(false), serverInfo: INFO };
  },
  ping: () => ({}),
  "logging/setLevel": ({ params }) => ((level = params.level), {}),
  "resources/subscribe": () => ({}),
  "resources/unsubscribe": () => ({}),
};
const NEW = {
  "server/discover": () => ({
    supportedVersions: ["2026-07-28"],
    capabilities: ABLE(true),
    serverInfo: INFO,
    _meta: { "io.modelcontextprotocol/serverInfo": INFO },
  }),
  "subscriptions/listen": (call) => {
    const wishes = {};
    for (const wish of ["toolsListChanged", "promptsListChanged", "resourcesListChanged"]) {
      if (call.params.notifications?.[wish]) wishes[wish] = true;
    }
    streams.set(call.id, { wishes, say: place.getStore() });
    notify("notifications/subscriptions/acknowledged", { _meta: { [SUBSCRIPTION]: call.id }, notifications: wishes });
    return undefined;
  },
};
const CACHED = ["server/discover", "tools/list", "resources/list", "resources/templates/list", "resources/read", "prompts/list"];

async function receive(message) {
  const { id, method, params = {} } = message;
  if (method === undefined) {
    waiting.get(id)?.(message);
    waiting.delete(id);
    return;
  }
  if (id === undefined) {
    if (method === "notifications/cancelled") streams.delete(params.requestId);
    return;
  }
  const meta = params._meta ?? {};
  const modern = meta[VERSION] !== undefined;
  const call = { id, params, meta, modern, arguments: params.arguments ?? {}, responses: params.inputResponses, state: params.requestState };
  try {
    const own = modern ? NEW : OLD;
    const run = METHODS[method] ?? own[method];
    if (!run) throw new Failure(-32601, `Method not found: ${method}`);
    const result = await run(call);
    if (result === undefined) return;
    if (modern) {
      result.resultType ??= "complete";
      if (CACHED.includes(method)) Object.assign(result, { ttlMs: 60000, cacheScope: "public" });
    }
    send({ id, result });
  } catch (error) {
    const { code = -32603, message, data } = error;
    send({ id, error: { code, message, ...(data && { data }) } });
  }
}

const sessions = new Set();
async function answer(request, response) {
  const plain = (status, headers = {}) => response.writeHead(status, headers).end();
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const session = request.headers["mcp-session-id"];
  if (request.method === "DELETE") return plain(sessions.delete(session) ? 200 : 404);
  if (request.method !== "POST") return plain(405, { allow: "POST, DELETE" });
  const message = JSON.parse(Buffer.concat(pieces).toString());
  const { id, method, params = {} } = message;
  const version = params._meta?.[VERSION];
  const headers = {};
  if (version !== undefined) {
    const says = { "mcp-protocol-version": version, "mcp-method": method, "mcp-name": params.name ?? params.uri };
    const wrong = Object.entries(says).some(([name, said]) => said !== undefined && request.headers[name] !== said);
    if (wrong || session !== undefined) return plain(400);
  } else if (method === "initialize") {
    headers["mcp-session-id"] = randomBytes(16).toString("hex");
    sessions.add(headers["mcp-session-id"]);
  } else if (!sessions.has(session)) return plain(session === undefined ? 400 : 404);
  if (id === undefined || method === undefined) {
    await receive(message);
    return plain(202);
  }
  response.on("close", () => version !== undefined && streams.delete(id));
  const say = (line) => {
    const done = line.id === id && line.method === undefined;
    const text = JSON.stringify(line);
    if (done && !response.headersSent) {
      const status = version !== undefined && line.error?.code === -32601 ? 404 : 200;
      response.writeHead(status, { ...headers, "content-type": "application/json" }).end(text);
      return;
    }
    if (!response.headersSent) response.writeHead(200, { ...headers, "content-type": "text/event-stream" });
    response.write(`data: ${text}\n\n`);
    if (done) response.end();
  };
  await place.run(say, () => receive(message));
}

const port = process.argv.find((word) => word.startsWith("http="))?.slice(5);
if (port) {
  createServer((request, response) => answer(request, response).catch(() => response.destroy())).listen(Number(port), "127.0.0.1");
} else {
  createInterface({ input: process.stdin }).on("line", (line) => {
    if (line.trim()) receive(JSON.parse(line));
  });
}
