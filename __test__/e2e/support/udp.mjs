/**
 * A program that sends or counts datagrams, exactly:
 *
 *     node udp.mjs send ADDRESS PORT SIZE BYTES_PER_SEC SECONDS [SOURCE]   SIZE is the IPv4 packet's
 *     node udp.mjs count ADDRESS PORT
 *     node udp.mjs echo ADDRESS PORT                                       sends each one back
 *
 * prints `ready`, and at its end what it has seen as a line of JSON. It ends with its input, if not before.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';

/** Of IPv4 and UDP. */
const HEADERS = 28;

/** Room for datagrams that come while this process does not run, in bytes. */
const RECEIVE_BUFFER = 4 << 20;

const [mode, address, port, ...rest] = process.argv.slice(2);
const socket = createSocket('udp4');
const stopped = once(process.stdin.resume(), 'end').then(() => (isStopped = true));
let isStopped = false;

if (mode === 'send') {
  const [size, rate, seconds] = rest.slice(0, 3).map(Number);
  socket.on('error', () => {}); // that nobody listens over there
  socket.bind(0, rest[3]);
  await once(socket, 'listening');
  socket.connect(Number(port), address);
  await once(socket, 'connect');
  await send(Buffer.alloc(size - HEADERS, 0x5a), Math.ceil((rate * seconds) / size), rate / size);
} else {
  let [packets, bytes] = [0, 0];
  socket.on('message', (message, { address: from, port: back }) => {
    packets += 1;
    bytes += message.length + HEADERS;
    if (mode === 'echo') socket.send(message, back, from);
  });
  socket.bind(Number(port), address);
  await once(socket, 'listening');
  socket.setRecvBufferSize(RECEIVE_BUFFER);
  console.log('ready');
  await stopped;
  console.log(JSON.stringify({ packets, bytes }));
}
socket.close();
process.stdin.destroy();

/** Sends as steadily as timers allow. A datagram that the kernel refuses is not one that was sent. */
async function send(payload, count, perSecond) {
  console.log('ready');
  const begun = performance.now();
  let [tried, sent, done] = [0, 0, 0];
  while (tried < count && !isStopped) {
    const due = Math.min(count, Math.ceil(((performance.now() - begun) / 1000) * perSecond));
    for (; tried < due; tried++) {
      socket.send(payload, (error) => {
        done += 1;
        if (!error) sent += 1;
      });
    }
    await sleep(1);
  }
  while (done < tried) await sleep(1);
  console.log(JSON.stringify({ packets: sent, bytes: sent * (payload.length + HEADERS) }));
}
