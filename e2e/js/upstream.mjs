// Makes server-everything, which listens on all addresses, listen on one.
//
//   PORT=3001 node upstream.mjs ADDRESS
import { Server } from 'node:net';

const address = process.argv[2];
const listen = Server.prototype.listen;
Server.prototype.listen = function listenOn(port, ...rest) {
  return listen.call(this, Number(port), address, ...rest);
};
process.argv[2] = 'streamableHttp';
await import('@modelcontextprotocol/server-everything/dist/index.js');
