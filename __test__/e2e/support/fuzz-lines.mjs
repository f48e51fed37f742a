/**
 * A worker that sends a daemon lines which are almost requests: valid ones, mutated by a generator
 * whose seed is given. Reads and forgets what comes back.
 */
import { once } from 'node:events';
import { createConnection } from 'node:net';
import { workerData } from 'node:worker_threads';

/** Lines that go out in one write. */
const BATCH = 500;

const VALID = [
  { id: 1, method: 'getStatus' },
  { id: 2, method: 'getStatistics', params: {} },
  { id: 'three', method: 'listClients', params: null },
  { id: 4, method: 'generateKeypair' },
  { id: 5, method: 'disconnectClient', params: { id: 'c1' } },
  { id: 6, method: 'getClientTelemetry', params: { id: '../../etc/passwd' } },
  { id: 7, method: 'setClientRateLimit', params: { id: 'c', rateBytesPerSec: 1e5, burstBytes: 65536 } },
  { id: 8, method: 'removeClientRateLimit', params: { id: '$(id)' } },
  { id: 9, method: 'validateConfig', params: { config: { listenAddr: '127.0.0.1:0', subnet: '10.0.0.0/24', routes: [] } } },
  { id: 10, method: 'stopServer' },
  { id: 11, method: 'connect', params: { serverUrl: 'wss://127.0.0.1:1/' } },
].map((request) => Buffer.from(JSON.stringify(request))); // prettier-ignore

const TOKENS = [
  '"', '\\', '\\u0000', '\\ud800', '{', '}', '[', ']', ',', ':', 'null', 'true', '-1', '1e999', '0.1', '9007199254740993',
  '{"id":', '"id"', '"method"', '"params"', '\r', '\t', '\0', '\u2028', 'é', '[[[[[[[[', '{"a":{"a":{"a":', '__proto__', ' ',
].map((token) => Buffer.from(token)).concat([Buffer.from([0xff]), Buffer.from([0xc3, 0x28]), Buffer.from([0xed, 0xa0, 0x80])]); // prettier-ignore

const { path, lines, seed } = workerData;
const random = generator(seed);

const socket = createConnection(path);
socket.resume();
await once(socket, 'connect');
for (let sent = 0; sent < lines; sent += BATCH) {
  const batch = Array.from({ length: Math.min(BATCH, lines - sent) }, line);
  if (!socket.write(Buffer.concat(batch))) await once(socket, 'drain');
}
// Answered after all before it was read.
let tail = '';
const answered = new Promise((resolve, reject) => {
  socket.on('data', (chunk) => {
    tail = (tail + chunk.toString('latin1')).slice(-10_000);
    if (tail.includes('"the end"')) resolve();
  });
  socket.on('close', () => reject(new Error('the daemon closed the connection')));
});
socket.write('\n{"id":"the end","method":"getStatus"}\n');
await answered;
socket.destroy();

function line() {
  let bytes = pick(VALID);
  for (let mutations = random(4); mutations > 0; mutations--) bytes = mutate(bytes);
  return Buffer.concat([bytes.filter((byte) => byte !== 0x0a), Buffer.from('\n')]);
}

function mutate(bytes) {
  const [from, to] = [random(bytes.length + 1), random(bytes.length + 1)].toSorted((a, b) => a - b);
  const [head, middle, rest] = [bytes.subarray(0, from), bytes.subarray(from, to), bytes.subarray(to)];
  switch (random(6)) {
    case 0:
      return Buffer.concat([head, rest]);
    case 1:
      return Buffer.concat([head, middle, middle, rest]).subarray(0, 60_000);
    case 2:
      return Buffer.concat([head, pick(TOKENS), middle, rest]);
    case 3:
      return Buffer.concat([head, pick(TOKENS), rest]);
    case 4:
      return Buffer.concat([head, pick(VALID)]);
    default: {
      const flipped = Buffer.from(bytes);
      if (flipped.length > 0) flipped[random(flipped.length)] = random(256);
      return flipped;
    }
  }
}

function pick(list) {
  return list[random(list.length)];
}

/** Marsaglia's xorshift: the same numbers from the same seed, below `bound`. */
function generator(state) {
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}
