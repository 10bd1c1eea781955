// A client of the TypeScript SDK 2.x, which checks `iss` (RFC 9207) among the parameters.
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';
import { run } from './sdk.mjs';

const finish = (transport, query) => transport.finishAuth(query);
await run({ Client, StreamableHTTPClientTransport, UnauthorizedError, finish });
