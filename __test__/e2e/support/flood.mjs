/**
 * A program that behaves as strangers do who mean harm, from many addresses:
 *
 *     node flood.mjs PLAN
 *
 * where PLAN is JSON: `{ kind, host, port, tls, sources: { net, count }, … }`. The addresses are `net`.0.1 and up, which
 * this host must have. It prints `{"begun":true}`, and at its end what it has seen as a line of JSON. It ends by itself.
 *
 * - `kind: 'handshakes'` with `perSecond` and `seconds`: first messages that come to nothing, as fast as it is told. Every
 *   second one is garbage, the others are well-formed and for another key.
 * - `kind: 'stuck'` with `count` and `seconds`: sockets that stop at one of five places; how long each was left open.
 * - `kind: 'forwarded'` with `addresses`: for each, a connection that a proxy has from it; how it was answered.
 * - `kind: 'abuse'` with `count` and `lanes`: WebSockets that break the rules; how each was answered.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';

import { frame, FrameReader, OPCODE } from './websocket.mjs';

const plan = JSON.parse(process.argv[2]);

const UPGRADE = [
  'GET / HTTP/1.1',
  `Host: ${plan.host}`,
  'Upgrade: websocket',
  'Connection: Upgrade',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
];

/** A socket that nobody closed for so long, in milliseconds, is given up. */
const PATIENCE_MS = 30_000;

let lastSource = 0;

function source() {
  const number = 1 + (lastSource++ % plan.sources.count);
  return `${plan.sources.net}.${number >> 8}.${number & 0xff}`;
}

function open({ tls = plan.tls } = {}) {
  const options = { host: plan.host, port: plan.port, localAddress: source() };
  const socket = tls
    ? connectTls({ ...options, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
    : connectTcp(options);
  socket.on('error', () => {}); // `close` follows
  return socket;
}

const head = (...more) => `${[...UPGRADE, ...more].join('\r\n')}\r\n\r\n`;

/** HandshakeInit (PROTOCOL §2) with what only chance could make right. */
function firstMessage(length) {
  const message = Buffer.alloc(5 + length);
  message[0] = 0x01;
  message.writeUInt32BE(length, 1);
  randomBytes(length).copy(message, 5);
  return message;
}

async function handshakes({ perSecond, seconds }) {
  const seen = { begun: 0, ended: 0 };
  const opening = head();
  // One of each suffices: what they are is seen by opening them.
  const variants = [randomBytes(200), firstMessage(180)].map((message) =>
    Buffer.concat([Buffer.from(opening), frame(OPCODE.binary, message, { masked: true })]),
  );
  const start = performance.now();
  for (;;) {
    const elapsed = (performance.now() - start) / 1000;
    if (elapsed >= seconds) break;
    for (const due = Math.ceil(elapsed * perSecond); seen.begun < due; seen.begun++) {
      const socket = open();
      socket.end(variants[seen.begun % 2]);
      socket.resume().on('close', () => (seen.ended += 1));
    }
    await sleep(2);
  }
  return { ...seen, perSecond: seen.begun / ((performance.now() - start) / 1000) };
}

/** Where sockets stop. */
const STOPS = {
  tcp: (socket) => socket,
  tls: (socket) => socket.write(Buffer.from('16030102000100', 'hex')),
  head: (socket) => {
    const bytes = head();
    let at = 0;
    const drip = setInterval(() => socket.write(bytes[at++ % bytes.length]), 1000);
    socket.on('close', () => clearInterval(drip));
  },
  upgraded: (socket) => socket.write(head()),
  message: (socket) => {
    const whole = frame(OPCODE.binary, firstMessage(4000), { masked: true });
    socket.write(Buffer.concat([Buffer.from(head()), whole.subarray(0, 3000)]));
  },
};

async function stuck({ count }) {
  const ages = {};
  let failed = 0;
  const names = Object.keys(STOPS);
  const all = Array.from({ length: count }, async (_, index) => {
    const name = names[index % names.length];
    await sleep((index / count) * 2_000);
    const socket = open({ tls: plan.tls && !['tcp', 'tls'].includes(name) });
    const begun = performance.now();
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.resume();
    socket.once(socket.encrypted ? 'secureConnect' : 'connect', () => STOPS[name](socket));
    const given = sleep(PATIENCE_MS, 'late', { ref: false });
    if ((await Promise.race([closed, given])) === 'late') failed += 1;
    const age = performance.now() - begun;
    ages[name] = Math.max(ages[name] ?? 0, age);
    socket.destroy();
  });
  await Promise.all(all);
  return { ages, failed };
}

/** What breaks a rule, and the close code or HTTP status that it deserves. */
const ABUSES = {
  'a length of 4 GiB': [
    1009,
    () => frame(OPCODE.binary, Buffer.alloc(0), { masked: true, announced: 2 ** 32 - 1 }),
  ],
  'a length of 2^63': [
    1002,
    () => frame(OPCODE.binary, Buffer.alloc(0), { masked: true, announced: 2 ** 63 }),
  ],
  'a head of 20 MB': [431, () => null, (socket) => floodHead(socket, 'x'.repeat(65_536), 320)],
  'ten thousand headers': [431, () => null, (socket) => floodHead(socket, 'X-A: b\r\n'.repeat(100), 100)],
  'fragments without end': [
    1002,
    () => {
      const first = frame(OPCODE.binary, Buffer.from([1]), { masked: true, fin: false });
      const next = frame(OPCODE.continuation, Buffer.from([1]), { masked: true, fin: false });
      return Buffer.concat([first, ...Array.from({ length: 1100 }, () => next)]);
    },
  ],
  'a flood of pings': [
    1002,
    () => {
      const ping = frame(OPCODE.ping, Buffer.alloc(100), { masked: true });
      return Buffer.concat([
        ...Array.from({ length: 1000 }, () => ping),
        frame(OPCODE.text, Buffer.from('enough'), { masked: true }),
      ]);
    },
  ],
  'reserved bits': [1002, () => frame(0x40 | OPCODE.binary, Buffer.from([1]), { masked: true })],
  'no mask': [1002, () => frame(OPCODE.binary, Buffer.from([1]), { masked: false })],
  'a text message': [1002, () => frame(OPCODE.text, Buffer.from('hello'), { masked: true })],
  'compression after an offer': [
    1002,
    () => frame(0x40 | OPCODE.binary, Buffer.from([1]), { masked: true }),
    undefined,
    'Sec-WebSocket-Extensions: permessage-deflate',
  ],
};

async function floodHead(socket, text, times) {
  socket.write('GET / HTTP/1.1\r\nX: ');
  for (let time = 0; time < times && socket.writable; time++) {
    if (!socket.write(text))
      await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => {});
  }
}

/** Resolves with the close code or the HTTP status; 0 if there was none. */
function misbehave([, make, instead, ...headers]) {
  const socket = open();
  return new Promise((resolve) => {
    let [answer, text, reader] = [0, '', null];
    const late = setTimeout(() => socket.destroy(), PATIENCE_MS);
    socket.on('data', (bytes) => {
      if (!reader) {
        text += bytes.toString('latin1');
        const end = text.indexOf('\r\n\r\n');
        if (end < 0) return;
        answer = Number(text.slice(9, 12));
        if (answer !== 101) return;
        answer = 0;
        reader = new FrameReader();
        bytes = Buffer.from(text.slice(end + 4), 'latin1');
      }
      for (const { opcode, payload } of reader.read(bytes)) {
        if (opcode === OPCODE.close && payload.length >= 2) {
          answer = payload.readUInt16BE(0);
          socket.end();
        }
      }
    });
    socket.once('connect', () => {
      if (instead) instead(socket);
      else socket.write(Buffer.concat([Buffer.from(head(...headers)), make()]));
    });
    socket.once('close', () => {
      clearTimeout(late);
      resolve(answer);
    });
  });
}

async function abuse({ count, lanes }) {
  const names = Object.keys(ABUSES);
  const seen = Object.fromEntries(names.map((name) => [name, {}]));
  let next = 0;
  const lane = async () => {
    while (next < count) {
      const name = names[next++ % names.length];
      const answer = await misbehave(ABUSES[name]);
      seen[name][answer] = (seen[name][answer] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return { seen, expected: Object.fromEntries(names.map((name) => [name, ABUSES[name][0]])) };
}

async function forwarded({ addresses }) {
  const [code, make] = ABUSES['a text message'];
  const answers = [];
  for (const address of addresses) {
    answers.push(await misbehave([code, make, undefined, `X-Forwarded-For: ${address}`]));
  }
  return answers;
}

console.log('{"begun":true}');
console.log(JSON.stringify(await { handshakes, stuck, forwarded, abuse }[plan.kind](plan)));
process.exit(0);
