// A client with the TypeScript SDK 2.x, which checks the `iss` parameter (RFC 9207).
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';
import { run } from './sdk.mjs';

const finish = (transport, query) => transport.finishAuth(query);
await run({ Client, StreamableHTTPClientTransport, UnauthorizedError, finish });
