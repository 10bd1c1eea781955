// A client with the TypeScript SDK 1.x.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { run } from './sdk.mjs';

const finish = (transport, query) => transport.finishAuth(query.get('code'));
await run({ Client, StreamableHTTPClientTransport, UnauthorizedError, finish });
