// An MCP server with everything that the conformance suite's server scenarios need, for both generations of the
// protocol: with sessions (2025-11-25) and stateless (2026-07-28).
//
//   PORT=3001 node scenarios.mjs ADDRESS
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { Readable } from 'node:stream';
import {
  McpServer, ResourceTemplate, WebStandardStreamableHTTPServerTransport, completable, createMcpHandler,
  createRequestStateCodec, inputRequired, inputResponse, isLegacyRequest, localhostAllowedHostnames, localhostAllowedOrigins,
  hostHeaderValidationResponse, originValidationResponse,
} from '@modelcontextprotocol/server';
import { z } from 'zod';

const IMAGE = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const AUDIO = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=';
const text = (words) => ({ content: [{ type: 'text', text: words }] });
const image = { type: 'image', data: IMAGE, mimeType: 'image/png' };
const embedded = (uri, words) => ({ type: 'resource', resource: { uri, mimeType: 'text/plain', text: words } });
const user = (content) => ({ messages: [{ role: 'user', content }] });
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const states = createRequestStateCodec({ key: randomUUID() + randomUUID() });
let handler;

/** A server with all tools, resources and prompts that the suite uses. */
function createMcpServer() {
  const hint = { ttlMs: 1000, cacheScope: 'private' };
  const server = new McpServer({ name: 'scenarios', version: '1' }, {
    capabilities: {
      logging: {}, completions: {}, resources: { subscribe: true, listChanged: true }, tools: { listChanged: true }, prompts: { listChanged: true },
    },
    requestState: { verify: states.verify },
    cacheHints: Object.fromEntries(
      ['tools/list', 'prompts/list', 'resources/list', 'resources/templates/list', 'resources/read', 'server/discover'].map((method) => [method, hint]),
    ),
  });
  const tool = (name, run, inputSchema) => server.registerTool(name, { description: name, ...(inputSchema && { inputSchema }) }, inputSchema ? run : (context) => run({}, context));
  simpleTools(tool);
  streamingTools(tool);
  clientRequestTools(tool);
  inputRequiredTools(tool);
  resourcesAndPrompts(server);
  return server;
}

/** Tools that respond immediately. */
function simpleTools(tool) {
  tool('test_simple_text', () => text('This is a simple text response for testing.'));
  tool('test_image_content', () => ({ content: [image] }));
  tool('test_audio_content', () => ({ content: [{ type: 'audio', data: AUDIO, mimeType: 'audio/wav' }] }));
  tool('test_embedded_resource', () => ({ content: [embedded('test://embedded-resource', 'An embedded resource.')] }));
  tool('test_multiple_content_types', () => ({ content: [{ type: 'text', text: 'Several:' }, image, embedded('test://mixed-content-resource', '{}')] }));
  tool('test_error_handling', () => { throw new Error('This tool intentionally returns an error for testing'); });
  tool('test_custom_headers', ({ region, count }) => text(`${region} ${count}`), z.object({
    region: z.string().meta({ 'x-mcp-header': 'Region' }),
    count: z.number().optional(),
  }));
}

/** Tools that send notifications before they respond, and one that closes its stream in between. */
function streamingTools(tool) {
  tool('test_tool_with_logging', async (_, { mcpReq }) => {
    for (const words of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
      await mcpReq.log('info', words);
      await pause(20);
    }
    return text('logged');
  });
  tool('test_logging_tool', async (_, { mcpReq }) => {
    await mcpReq.log('info', 'a message');
    return text('logged');
  });
  tool('test_tool_with_progress', async (_, { mcpReq }) => {
    const progressToken = mcpReq._meta?.progressToken;
    for (const progress of progressToken === undefined ? [] : [0, 50, 100]) {
      await mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
      await pause(20);
    }
    return text('done');
  });
  tool('test_reconnection', async (_, { http }) => {
    http?.closeSSE?.();
    await pause(100);
    return text('after a reconnection');
  });
  tool('test_trigger_tool_change', () => { handler.notify.toolsChanged(); return text('triggered'); });
  tool('test_trigger_prompt_change', () => { handler.notify.promptsChanged(); return text('triggered'); });
}

/**
 * Tools that send requests to the client (2025-11-25) in the stream of its own request. By default, the SDK uses the GET
 * stream, which the suite may not have opened yet, because it does so concurrently over another connection.
 */
function clientRequestTools(tool) {
  const within = (mcpReq) => ({ relatedRequestId: mcpReq.id });
  const ask = (name, message, properties) => tool(name, async (_, { mcpReq }) => {
    const answer = await mcpReq.elicitInput({ message, requestedSchema: { type: 'object', properties } }, within(mcpReq));
    return text(`Elicitation completed: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
  });
  tool('test_sampling', async ({ prompt }, { mcpReq }) => {
    const answer = await mcpReq.requestSampling({ messages: [{ role: 'user', content: { type: 'text', text: prompt } }], maxTokens: 100 }, within(mcpReq));
    return text(`LLM response: ${answer.content.text}`);
  }, z.object({ prompt: z.string() }));
  tool('test_elicitation', async ({ message }, { mcpReq }) => {
    const properties = { username: { type: 'string', description: "User's response" }, email: { type: 'string', description: "User's email address" } };
    const answer = await mcpReq.elicitInput({ message, requestedSchema: { type: 'object', properties, required: ['username', 'email'] } }, within(mcpReq));
    return text(`User response: action: ${answer.action}, content: ${JSON.stringify(answer.content ?? {})}`);
  }, z.object({ message: z.string() }));
  ask('test_elicitation_sep1034_defaults', 'Defaults', {
    name: { type: 'string', default: 'John Doe' },
    age: { type: 'integer', default: 30 },
    score: { type: 'number', default: 95.5 },
    status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
    verified: { type: 'boolean', default: true },
  });
  const titled = ['one', 'two', 'three'].map((word) => ({ const: word, title: word.toUpperCase() }));
  ask('test_elicitation_sep1330_enums', 'Choices', {
    untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
    titledSingle: { type: 'string', oneOf: titled },
    legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['One', 'Two', 'Three'] },
    untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
    titledMulti: { type: 'array', items: { anyOf: titled } },
  });
}

/** Tools that return a request for input and continue when called again with the input (2026-07-28). */
function inputRequiredTools(tool) {
  const name = () => inputRequired.elicit({ message: 'What is your name?', requestedSchema: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] } });
  const sampling = () => inputRequired.createMessage({ messages: [{ role: 'user', content: { type: 'text', text: 'What is the capital of France?' } }], maxTokens: 100 });
  const round = (toolName, requests, done = () => 'done') => tool(toolName, async (_, { mcpReq }) => {
    const inputRequests = requests();
    const missing = Object.keys(inputRequests).filter((key) => inputResponse(mcpReq.inputResponses, key).kind === 'missing');
    return missing.length > 0 ? inputRequired({ inputRequests }) : text(done(mcpReq.inputResponses));
  });
  round('test_input_required_result_elicitation', () => ({ user_name: name() }), (given) => `Hello, ${given.user_name.content?.name}!`);
  round('test_input_required_result_sampling', () => ({ capital_question: sampling() }));
  round('test_input_required_result_list_roots', () => ({ client_roots: inputRequired.listRoots() }));
  round('test_missing_capability', () => ({ sampled: sampling() }));
  round('test_streaming_elicitation', () => ({ user_name: name() }));
  const stateful = (toolName, last) => tool(toolName, async (_, { mcpReq }) => {
    const state = mcpReq.requestState() ?? { round: 0 };
    if (state.round >= last) return text(`state-ok after ${state.round} rounds`);
    const requestState = await states.mint({ round: state.round + 1 });
    return inputRequired({ inputRequests: { [`step${state.round + 1}`]: name() }, requestState });
  });
  stateful('test_input_required_result_request_state', 1);
  stateful('test_input_required_result_tampered_state', 1);
  stateful('test_input_required_result_multi_round', 2);
  tool('test_input_required_result_multiple_inputs', async (_, { mcpReq }) => {
    const inputRequests = { user_name: name(), greeting: sampling(), client_roots: inputRequired.listRoots() };
    if (mcpReq.inputResponses) return text('complete');
    return inputRequired({ inputRequests, requestState: await states.mint({ round: 1 }) });
  });
  tool('test_input_required_result_capabilities', async (_, { mcpReq }) => {
    const can = mcpReq.envelope?.['io.modelcontextprotocol/clientCapabilities'] ?? {};
    if (mcpReq.inputResponses) return text('done');
    const inputRequests = { ...(can.elicitation && { user_name: name() }), ...(can.sampling && { sampled: sampling() }) };
    return Object.keys(inputRequests).length > 0 ? inputRequired({ inputRequests }) : text('no input needed');
  });
}

function resourcesAndPrompts(server) {
  server.registerResource('text', 'test://static-text', { mimeType: 'text/plain' }, (uri) => ({ contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'This is the content of the static text resource.' }] }));
  server.registerResource('binary', 'test://static-binary', { mimeType: 'image/png' }, (uri) => ({ contents: [{ uri: uri.href, mimeType: 'image/png', blob: IMAGE }] }));
  server.registerResource('watched', 'test://watched-resource', { mimeType: 'text/plain' }, (uri) => ({ contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'watched' }] }));
  server.registerResource('template', new ResourceTemplate('test://template/{id}/data', { list: undefined }), { mimeType: 'application/json' }, (uri, { id }) => ({ contents: [{ uri: uri.href, mimeType: 'application/json', text: JSON.stringify({ id }) }] }));
  server.server.setRequestHandler('resources/subscribe', () => ({}));
  server.server.setRequestHandler('resources/unsubscribe', () => ({}));
  server.registerPrompt('test_simple_prompt', { description: 'simple' }, () => user({ type: 'text', text: 'This is a simple prompt for testing.' }));
  server.registerPrompt('test_prompt_with_arguments', { description: 'arguments', argsSchema: z.object({ arg1: completable(z.string(), () => ['paris', 'park']), arg2: z.string() }) }, ({ arg1, arg2 }) => user({ type: 'text', text: `Prompt with arguments: arg1='${arg1}', arg2='${arg2}'` }));
  server.registerPrompt('test_prompt_with_embedded_resource', { description: 'resource', argsSchema: z.object({ resourceUri: z.string() }) }, ({ resourceUri }) => user(embedded(resourceUri, 'Embedded resource content for testing.')));
  server.registerPrompt('test_prompt_with_image', { description: 'image' }, () => user(image));
  server.registerPrompt('test_input_required_result_prompt', { description: 'input' }, (context) => {
    if (context.mcpReq.inputResponses) return user({ type: 'text', text: 'done' });
    return inputRequired({ inputRequests: { user_context: inputRequired.elicit({ message: 'What is it about?', requestedSchema: { type: 'object', properties: { context: { type: 'string' } } } }) } });
  });
}

/** The events of a session's streams, for resumption with `Last-Event-ID`. */
class Events {
  #events = [];

  async storeEvent(stream, message) {
    return String(this.#events.push({ stream, message }) - 1);
  }

  async replayEventsAfter(last, { send }) {
    const { stream } = this.#events[Number(last)] ?? {};
    for (const [id, event] of this.#events.entries()) {
      if (id > Number(last) && event.stream === stream && event.message.jsonrpc) await send(String(id), event.message);
    }
    return stream;
  }
}

const sessions = new Map();

async function withSession(request) {
  const id = request.headers.get('mcp-session-id');
  if (id) {
    const transport = sessions.get(id);
    return transport ? transport.handleRequest(request) : Response.json({ jsonrpc: '2.0', id: null, error: { code: -32001, message: 'Session not found' } }, { status: 404 });
  }
  const transport = new WebStandardStreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (session) => { sessions.set(session, transport); },
    onsessionclosed: (session) => { sessions.delete(session); },
    eventStore: new Events(),
    retryInterval: 50,
  });
  await createMcpServer().connect(transport);
  return transport.handleRequest(request);
}

handler = createMcpHandler(createMcpServer, { legacy: 'reject' });

async function handle(request) {
  const { pathname } = new URL(request.url);
  if (pathname !== '/mcp') return new Response(null, { status: pathname === '/health' ? 200 : 404 });
  const refusal = hostHeaderValidationResponse(request, localhostAllowedHostnames()) ?? originValidationResponse(request, localhostAllowedOrigins());
  if (refusal) return refusal;
  return await isLegacyRequest(request) ? withSession(request) : handler.fetch(request);
}

createServer(async (incoming, outgoing) => {
  const closed = new AbortController();
  outgoing.on('close', () => closed.abort());
  const { method, headers } = incoming;
  const body = method === 'GET' || method === 'HEAD' || method === 'DELETE' ? undefined : Readable.toWeb(incoming);
  try {
    const response = await handle(new Request(`http://${headers.host}${incoming.url}`, { method, headers, body, duplex: 'half', signal: closed.signal }));
    outgoing.writeHead(response.status, Object.fromEntries(response.headers));
    outgoing.flushHeaders();
    for await (const chunk of response.body ?? []) outgoing.write(chunk);
  } catch (error) {
    if (!outgoing.headersSent) outgoing.writeHead(500);
    if (!closed.signal.aborted) console.error(error);
  }
  outgoing.end();
}).listen(Number(process.env.PORT), process.argv[2]);
