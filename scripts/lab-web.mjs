/**
 * The program of the public host: an HTTP server with a page, files of any size and a place to put
 * them, and a DNS server.
 */
import { createCipheriv, createHash } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';

const CHUNK = Buffer.alloc(256 * 1024);

/** What is sent at once where there is a rate: small beside what any rate sends in the time that a test looks at. */
const PIECE = 32 * 1024;

/** How much of the time that was lost to slow timers is made up for, in milliseconds. */
const SLACK_MS = 50;

/**
 * Starts both servers on all addresses.
 *
 * `GET /` says who asks. `GET /random/<bytes>` sends a file that is always the same for its size,
 * with its SHA-256 in `x-sha256`; `?rate=` is how many bytes a second it sends at most, `?holdMs=` how long it waits in
 * the middle. `PUT /` answers `{ bytes, sha256 }`. DNS resolves `web.test` to `address` and every other name to nothing.
 *
 * @param {{ address: string }} options
 */
export async function serveWeb({ address }) {
  const http = createServer((request, response) => {
    answer(request, response).catch((error) => response.destroy(error));
  });
  http.listen(80, '::');
  const dns = createSocket('udp6');
  dns.on('message', (query, peer) => dns.send(resolve(query, address), peer.port, peer.address));
  dns.bind(53);
  await Promise.all([once(http, 'listening'), once(dns, 'listening')]);
}

async function answer(request, response) {
  const { pathname, searchParams } = new URL(request.url, 'http://web.test');
  const size = /^\/random\/(\d+)$/.exec(pathname)?.[1];
  if (request.method === 'PUT') {
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const chunk of request) {
      hash.update(chunk);
      bytes += chunk.length;
    }
    response.end(JSON.stringify({ bytes, sha256: hash.digest('hex') }));
  } else if (size) {
    response.writeHead(200, { 'content-length': size, 'x-sha256': digest(Number(size)) });
    await pipeline(slowly(Number(size), searchParams), response);
  } else {
    const from = request.socket.remoteAddress.replace(/^::ffff:/, '');
    response.end(`Hello from the public host. You came from ${from}.\n`);
  }
}

/** Bytes without pattern, the same at each call: AES-128-CTR over zeros. */
export function* random(size) {
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16));
  for (let left = size; left > 0; left -= CHUNK.length) {
    yield cipher.update(CHUNK.subarray(0, Math.min(left, CHUNK.length)));
  }
}

/** The same bytes at a pace; what could not be sent for a while is not made up for. */
async function* slowly(size, options) {
  const [rate, holdMs] = ['rate', 'holdMs'].map((name) => Number(options.get(name)));
  let left = size;
  let due = performance.now();
  for (const chunk of random(size)) {
    if (holdMs && left > size / 2 && left - chunk.length <= size / 2) await sleep(holdMs);
    left -= chunk.length;
    const pieces = rate ? Math.ceil(chunk.length / PIECE) : 1;
    for (let piece = 0; piece < pieces; piece++) {
      const bytes = pieces === 1 ? chunk : chunk.subarray(piece * PIECE, (piece + 1) * PIECE);
      if (rate) due = Math.max(due, performance.now() - SLACK_MS) + (bytes.length / rate) * 1000;
      if (due > performance.now()) await sleep(due - performance.now());
      yield bytes;
    }
  }
}

const digests = new Map();

/** SHA-256 of {@link random}, in hex. */
export function digest(size) {
  if (!digests.has(size)) {
    const hash = createHash('sha256');
    for (const chunk of random(size)) hash.update(chunk);
    digests.set(size, hash.digest('hex'));
  }
  return digests.get(size);
}

/** Answers one DNS query (RFC 1035 §4.1): an A record for `web.test`, otherwise no such name. */
function resolve(query, address) {
  const labels = [];
  let at = 12;
  for (; query[at]; at += query[at] + 1) labels.push(query.toString('latin1', at + 1, at + 1 + query[at]));
  const question = query.subarray(12, at + 5);
  const known = labels.join('.').toLowerCase() === 'web.test';
  const isA = query.readUInt16BE(at + 1) === 1;

  const header = Buffer.alloc(12);
  query.copy(header, 0, 0, 2);
  header.writeUInt16BE(known ? 0x8400 : 0x8403, 2); // authoritative answer; 3: no such name
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(known && isA ? 1 : 0, 6);
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...address.split('.').map(Number)]);
  return Buffer.concat([header, question, ...(known && isA ? [record] : [])]);
}
