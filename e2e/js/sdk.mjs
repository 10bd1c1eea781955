// What our clients of the TypeScript SDK's two lines have in common: a login with the bed's help, and the call of a tool.
//
//   node sdk-N.mjs URL STORE REDIRECT_URI TOOL ARGUMENTS
//
// Speaks JSON lines, as bed.py of e2e/python does: prints {"authorize": url} when a person must log in and reads the
// address at which the browser arrived from standard input; at the end prints {"tools": [...], "text": [...],
// "error": bool}. STORE, a file, keeps the client's registration and its tokens over runs.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [url, file, redirectUrl, tool, args] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (message) => console.log(JSON.stringify(message));

const read = () => (existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {});
// What is undefined is left out by JSON.
const keep = (change) => writeFileSync(file, JSON.stringify({ ...read(), ...change }));

/** The SDKs' OAuthClientProvider in the file. */
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
  saveClientInformation: (client) => keep({ client }),
  tokens: () => read().tokens,
  saveTokens: (tokens) => keep({ tokens }),
  codeVerifier: () => read().verifier,
  saveCodeVerifier: (verifier) => keep({ verifier }),
  discoveryState: () => read().discovery,
  saveDiscoveryState: (discovery) => keep({ discovery }),
  redirectToAuthorization: (address) => say({ authorize: String(address) }),
  invalidateCredentials: (scope) => {
    const all = scope === 'all';
    keep({
      ...((all || scope === 'client') && { client: undefined }),
      ...((all || scope === 'tokens') && { tokens: undefined }),
      ...((all || scope === 'verifier') && { verifier: undefined }),
      ...((all || scope === 'discovery') && { discovery: undefined }),
    });
  },
};

/** The parameters with which the browser arrived. */
async function arrived() {
  const { value } = await lines.next();
  const query = new URL(value).searchParams;
  if (!query.has('code')) throw new Error(`the login ended at ${value}`);
  return query;
}

/** Connects, after a login if one is asked for, lists the tools and calls one. */
export async function run({ Client, StreamableHTTPClientTransport, UnauthorizedError, finish }) {
  const connect = async () => {
    const client = new Client({ name: 'e2e', version: '1' });
    const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
    try {
      await client.connect(transport);
      return client;
    } catch (error) {
      if (!(error instanceof UnauthorizedError)) throw error;
      await finish(transport, await arrived());
    }
  };
  const client = (await connect()) ?? (await connect());
  if (!client) throw new Error('a login did not suffice');
  const { tools } = await client.listTools();
  const result = await client.callTool({ name: tool, arguments: JSON.parse(args) });
  const text = result.content.filter((part) => part.type === 'text').map((part) => part.text);
  say({ tools: tools.map((one) => one.name), text, error: result.isError ?? false });
  await client.close();
  process.exit(0);
}
