/**
 * A program that measures how steadily a tunnel carries what passes it:
 *
 *     node probe.mjs fetch URL PATIENCE_MS        downloads over one connection, without a second try; gives up when
 *                                                 nothing comes for so long
 *     node probe.mjs call ADDRESS PORT KEY RATE   sends numbered, signed datagrams, RATE a second, and judges those that come
 *     node probe.mjs answer ADDRESS PORT KEY RATE the same, to whoever sent the newest genuine one
 *
 * prints a line of JSON once it is under way (`fetch`: with the first byte; the others: when they listen), and at its
 * end what it has seen as another. `call` and `answer` end with their input, `fetch` with the download.
 *
 * Moments are in milliseconds of the machine's monotonic clock, so those of different processes can be compared.
 */
import { createHash, createHmac } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { get } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** A pause that is shorter is not worth telling, in milliseconds. */
const PAUSE_MS = 80;

/** What comes later than this, in milliseconds, had better been dropped. */
export const STALE_MS = 3_000;

/** A datagram: number (8), moment of sending (8), filling, HMAC-SHA-256 (32). So long that it is no small packet. */
const STAMP = 400;
const SIGNED = STAMP - 32;

/** Room for datagrams that come all at once, in bytes: they must be seen to be judged. */
const RECEIVE_BUFFER = 4 << 20;

/** Now, by the clock that all processes of the machine share. */
export function moment() {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Notes when something comes, and keeps the pauses between. */
class Arrivals {
  pauses = [];
  #last;

  note() {
    const now = moment();
    if (this.#last !== undefined && now - this.#last > PAUSE_MS)
      this.pauses.push({ at: this.#last, ms: now - this.#last });
    this.#last = now;
  }

  /** The pauses, the one that may be going on included. */
  end() {
    this.note();
    return this.pauses;
  }
}

function tell(value) {
  console.log(JSON.stringify(value));
}

async function fetch(url, patienceMs) {
  const arrivals = new Arrivals();
  const hash = createHash('sha256');
  let bytes = 0;
  let failure;
  let expected;
  try {
    const request = get(url, { agent: false, timeout: Number(patienceMs) });
    request.on('timeout', () => request.destroy(new Error(`nothing came for ${patienceMs} ms`)));
    request.on('error', (error) => (failure ??= error.message));
    const [response] = await once(request, 'response');
    expected = response.headers['x-sha256'];
    for await (const chunk of response) {
      arrivals.note();
      if (bytes === 0) tell({ begun: moment() });
      hash.update(chunk);
      bytes += chunk.length;
    }
  } catch (error) {
    failure ??= error.message;
  }
  const ended = moment();
  tell({ bytes, whole: hash.digest('hex') === expected, failure, ended, pauses: arrivals.end() });
}

/** One end of an exchange of datagrams. */
class Stamps {
  /** What was judged: `wrong` is what nobody with the key has sent, `late` what took longer than {@link STALE_MS}. */
  seen = { sent: 0, received: 0, late: 0, wrong: 0, repeated: 0, disordered: 0, oldestMs: 0 };
  #arrivals = new Arrivals();
  #highest = -1n;
  #numbers = new Set();
  #socket;
  #key;
  #peer;

  constructor(socket, key, peer) {
    this.#socket = socket;
    this.#key = Buffer.from(key, 'hex');
    this.#peer = peer;
    // The network that is gone for a while.
    socket.on('error', () => {});
    socket.on('message', (message, from) => this.#judge(message, from));
  }

  send() {
    if (!this.#peer) return;
    const stamp = Buffer.alloc(STAMP);
    stamp.writeBigUInt64BE(BigInt(this.seen.sent++), 0);
    stamp.writeDoubleBE(moment(), 8);
    this.#sign(stamp).copy(stamp, SIGNED);
    this.#socket.send(stamp, this.#peer.port, this.#peer.address, () => {});
  }

  end() {
    return { ...this.seen, pauses: this.#arrivals.end() };
  }

  #judge(message, from) {
    // Its own, come back, bears another key.
    if (message.length !== STAMP || !this.#sign(message, true).equals(message.subarray(SIGNED))) {
      this.seen.wrong += 1;
      return;
    }
    const number = message.readBigUInt64BE(0);
    this.#arrivals.note();
    this.seen.received += 1;
    const age = moment() - message.readDoubleBE(8);
    this.seen.oldestMs = Math.max(this.seen.oldestMs, age);
    if (age > STALE_MS) this.seen.late += 1;
    if (this.#numbers.has(number)) this.seen.repeated += 1;
    else if (number < this.#highest) this.seen.disordered += 1;
    this.#numbers.add(number);
    if (number > this.#highest) {
      this.#highest = number;
      if (mode === 'answer') this.#peer = from;
    }
  }

  #sign(stamp, isTheirs = false) {
    const sender = (mode === 'call') === isTheirs ? 'answer' : 'call';
    return createHmac('sha256', this.#key).update(sender).update(stamp.subarray(0, SIGNED)).digest();
  }
}

async function exchange(address, port, key, rate) {
  const socket = createSocket('udp4');
  const stamps = new Stamps(socket, key, mode === 'call' ? { address, port: Number(port) } : undefined);
  socket.bind(Number(port), mode === 'answer' ? address : undefined);
  await once(socket, 'listening');
  socket.setRecvBufferSize(RECEIVE_BUFFER);
  tell({ begun: moment() });
  let stopped = false;
  const end = once(process.stdin.resume(), 'end').then(() => (stopped = true));
  // At a steady pace; what was due while the process slept is not made up for.
  for (let due = moment(); !stopped; due = Math.max(due + 1000 / rate, moment() - 50)) {
    const wait = due - moment();
    if (wait > 0) await Promise.race([sleep(wait), end]);
    stamps.send();
  }
  tell(stamps.end());
  socket.close();
  process.stdin.destroy();
}

const [program, mode, ...rest] = process.argv.slice(1);
if (program === fileURLToPath(import.meta.url)) {
  if (mode === 'fetch') await fetch(...rest);
  else await exchange(...rest);
}
