// The common part of the clients with TypeScript SDK 1.x and 2.x: log in with the test's help and call a tool.
//
//   node sdk-N.mjs URL STORE REDIRECT_URI TOOL ARGUMENTS
//
// Speaks JSON lines like e2e/python/bed.py: prints {"authorize": url} to request a login and reads the browser's final
// URL from standard input; at the end prints {"tools": [...], "text": [...], "error": bool}. The file STORE keeps
// registration and tokens between runs.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [url, file, redirectUrl, tool, args] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const send = (message) => console.log(JSON.stringify(message));

const read = () => (existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {});
// JSON.stringify omits undefined members.
const store = (change) => writeFileSync(file, JSON.stringify({ ...read(), ...change }));

/** The SDKs' OAuthClientProvider, stored in the file. */
const provider = {
  redirectUrl,
  clientMetadata: {
    client_name: 'TypeScript SDK',
    redirect_uris: [redirectUrl],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  },
  clientInformation: () => read().client,
  saveClientInformation: (client) => store({ client }),
  tokens: () => read().tokens,
  saveTokens: (tokens) => store({ tokens }),
  codeVerifier: () => read().verifier,
  saveCodeVerifier: (verifier) => store({ verifier }),
  discoveryState: () => read().discovery,
  saveDiscoveryState: (discovery) => store({ discovery }),
  redirectToAuthorization: (address) => send({ authorize: String(address) }),
  invalidateCredentials: (scope) => {
    const all = scope === 'all';
    store({
      ...((all || scope === 'client') && { client: undefined }),
      ...((all || scope === 'tokens') && { tokens: undefined }),
      ...((all || scope === 'verifier') && { verifier: undefined }),
      ...((all || scope === 'discovery') && { discovery: undefined }),
    });
  },
};

/** The query parameters of the browser's final URL. */
async function redirectQuery() {
  const { value } = await lines.next();
  const query = new URL(value).searchParams;
  if (!query.has('code')) throw new Error(`the login ended at ${value}`);
  return query;
}

/** Connects, logs in if required, lists the tools and calls one. */
export async function run({ Client, StreamableHTTPClientTransport, UnauthorizedError, finish }) {
  const connect = async () => {
    const client = new Client({ name: 'e2e', version: '1' });
    const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
    try {
      await client.connect(transport);
      return client;
    } catch (error) {
      if (!(error instanceof UnauthorizedError)) throw error;
      await finish(transport, await redirectQuery());
    }
  };
  const client = (await connect()) ?? (await connect());
  if (!client) throw new Error('not authorized after a login');
  const { tools } = await client.listTools();
  const result = await client.callTool({ name: tool, arguments: JSON.parse(args) });
  const text = result.content.filter((part) => part.type === 'text').map((part) => part.text);
  send({ tools: tools.map((one) => one.name), text, error: result.isError ?? false });
  await client.close();
  process.exit(0);
}
