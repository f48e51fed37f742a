/** A proxy that ends TLS in front of a VPN server, and passes on, cuts anew or falsifies what it then can see. */
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { createServer } from 'node:tls';

import { FORGERIES, innerFrames, REORDERINGS, SWALLOWING } from './mischief.mjs';
import { frame, MessageReader, OPCODE } from './websocket.mjs';

/** How long a message may be that is put together from several: less than the receiver's limit. */
const MERGED = 100_000;

/** How long a message waits for others that it is put together with, in milliseconds. */
const MERGE_MS = 3;

/** The first messages of a direction may be handshake messages, which must not grow. */
const HANDSHAKE_MESSAGES = 2;

/** One in so many sessions is disturbed in its handshake: an odd number, as the direction alternates. */
const HANDSHAKE_EVERY = 5;

const KINDS = [...Object.keys(FORGERIES), ...REORDERINGS];
const WITHOUT_NEXT = KINDS.filter((kind) => !['swapped', 'dropped'].includes(kind));
const IMMEDIATE = Object.keys(FORGERIES).filter((kind) => kind !== SWALLOWING);

/**
 * The proxy. It runs in an agent on a host; {@link openHostileProxy} starts it there.
 *
 * @typedef {'up' | 'down'} Direction `up` is towards the server
 */
export class HostileProxy {
  #to;
  #pass = { mode: 'pass' };
  #sessions = new Set();
  #seen = emptyCounts();

  /** @param {{ listen: object, to: object, certificate: string, key: string }} options */
  static async open({ listen, to, certificate, key }) {
    const proxy = new HostileProxy(to);
    const listener = createServer({ cert: certificate, key }, (socket) => proxy.#accept(socket));
    listener.listen(listen);
    await once(listener, 'listening');
    return proxy;
  }

  constructor(to) {
    this.#to = to;
  }

  /** From now on everything passes as it came. */
  pass() {
    this.#pass = { mode: 'pass' };
  }

  /** From now on messages are merged and fragmented, with pings in between. */
  reframe() {
    this.#pass = { mode: 'reframe' };
  }

  /**
   * From now on a message of each session is falsified, in another way each time, and false ones follow it, until
   * `target` frames were false.
   *
   * @param {{ target: number, burst: number, packets: Record<Direction, Uint8Array> }} options
   */
  harm({ target, burst, packets }) {
    this.#seen = emptyCounts();
    this.#pass = { mode: 'harm', target, burst, packets };
    for (const session of this.#sessions) session.expose(this.#plan(false));
  }

  /**
   * What has come of it: `false` frames, sessions `harmed`, and of these those that their victim has `closed`, by close
   * code, and how long it took at most.
   */
  counts() {
    return { ...this.#seen, isOver: this.#pass.mode === 'pass' };
  }

  #accept(client) {
    const server = connect({ ...this.#to, noDelay: true });
    client.setNoDelay(true);
    const session = new Session(this, client, server);
    if (this.#pass.mode === 'harm') session.expose(this.#plan(this.#seen.planned % HANDSHAKE_EVERY === 0));
    this.#sessions.add(session);
    for (const socket of [client, server]) {
      socket.on('error', () => {});
      socket.once('close', () => {
        session.closed(socket);
        this.#sessions.delete(session);
      });
    }
  }

  get order() {
    return this.#pass;
  }

  /** How a session is to be harmed. */
  #plan(inHandshake) {
    const number = this.#seen.planned++;
    const kinds = inHandshake ? WITHOUT_NEXT : KINDS;
    return {
      kind: kinds[Math.floor(number / 2) % kinds.length],
      direction: number % 2 === 0 ? 'up' : 'down',
      after: inHandshake ? 0 : randomInt(2, 8),
      inHandshake,
      burst: this.#pass.burst,
      packets: this.#pass.packets,
    };
  }

  /** @private */
  count(falseFrames, plan) {
    this.#seen.false += falseFrames;
    if (plan) {
      this.#seen.harmed += 1;
      this.#seen.kinds[plan.kind] = (this.#seen.kinds[plan.kind] ?? 0) + 1;
    }
    if (this.#pass.mode === 'harm' && this.#seen.false >= this.#pass.target) this.pass();
  }

  /** @private the victim has closed its session */
  countClose(code, ms) {
    this.#seen.closed += 1;
    this.#seen.codes[code] = (this.#seen.codes[code] ?? 0) + 1;
    this.#seen.slowestMs = Math.max(this.#seen.slowestMs, ms);
  }
}

function emptyCounts() {
  return { false: 0, planned: 0, harmed: 0, closed: 0, codes: {}, kinds: {}, slowestMs: 0 };
}

/** One connection through the proxy. */
class Session {
  #proxy;
  #ends;
  #messages = { up: 0, down: 0 };
  #gathered = { up: [], down: [] };
  #held = null;
  #plan = null;
  #harmedAt = null;
  #victim = null;
  #isClosed = false;

  constructor(proxy, client, server) {
    this.#proxy = proxy;
    this.#ends = { up: server, down: client };
    this.#read(client, server, 'up');
    this.#read(server, client, 'down');
  }

  /** Sets what is to be done to it, after so many more messages. */
  expose(plan) {
    this.#plan = { ...plan, after: this.#messages[plan.direction] + plan.after };
  }

  /** An end has closed its connection. */
  closed(socket) {
    if (socket === this.#victim) this.#countClose('none');
    this.#ends.up.destroySoon();
    this.#ends.down.destroySoon();
  }

  #read(from, to, direction) {
    const reader = new MessageReader();
    let head = Buffer.alloc(0);
    from.on('data', (bytes) => {
      if (head) {
        // The head of the upgrade passes as it is: both ends see the same.
        head = Buffer.concat([head, bytes]);
        const end = head.indexOf('\r\n\r\n') + 4;
        if (end < 4) return;
        to.write(head.subarray(0, end));
        bytes = head.subarray(end);
        head = null;
      }
      for (const message of reader.read(bytes)) this.#receive(message, direction, from);
    });
    from.once('end', () => to.end());
  }

  #receive({ opcode, payload }, direction, from) {
    if (opcode !== OPCODE.binary) {
      if (opcode === OPCODE.close && from === this.#victim) this.#countClose(payload.readUInt16BE(0));
      this.#flush(direction);
      this.#write(frame(opcode, payload, { masked: direction === 'up' }), direction);
      return;
    }
    const number = this.#messages[direction]++;
    if (this.#proxy.order.mode === 'reframe' && number >= HANDSHAKE_MESSAGES) {
      this.#gather(payload, direction);
    } else if (this.#isDue(direction, number)) {
      this.#harm(payload, this.#plan);
    } else {
      this.#send(payload, direction);
    }
  }

  #isDue(direction, number) {
    const plan = this.#plan;
    if (!plan || this.#harmedAt || direction !== plan.direction || number < plan.after) return false;
    // What it holds back would be missing.
    return this.#held !== null || this.#proxy.order.mode === 'harm';
  }

  #write(bytes, direction) {
    const to = this.#ends[direction];
    if (to.writable) to.write(bytes);
  }

  #send(payload, direction) {
    this.#write(frame(OPCODE.binary, payload, { masked: direction === 'up' }), direction);
  }

  // -- cutting anew -------------------------------------------------------------------------------

  #gather(payload, direction) {
    const gathered = this.#gathered[direction];
    gathered.push(payload);
    if (gathered.length === 1) setTimeout(() => this.#flush(direction), MERGE_MS);
    if (gathered.reduce((sum, { length }) => sum + length, 0) > MERGED) this.#flush(direction);
  }

  /** Sends what was gathered as one message, in fragments with pings between them. */
  #flush(direction) {
    const message = Buffer.concat(this.#gathered[direction].splice(0));
    if (message.length === 0) return;
    const masked = direction === 'up';
    const fragments = randomInt(1, 9);
    const size = Math.ceil(message.length / fragments);
    for (let at = 0; at < message.length; at += size) {
      const opcode = at === 0 ? OPCODE.binary : OPCODE.continuation;
      const fin = at + size >= message.length;
      this.#write(frame(opcode, message.subarray(at, at + size), { masked, fin }), direction);
      if (!fin && randomInt(4) === 0)
        this.#write(frame(OPCODE.ping, Buffer.from('?'), { masked }), direction);
    }
  }

  // -- falsifying ---------------------------------------------------------------------------------

  #harm(message, plan) {
    const { kind, direction } = plan;
    if (kind === 'twice') {
      this.#begin(direction);
      this.#send(message, direction);
      this.#send(message, direction);
    } else if (kind === 'reflected') {
      const back = direction === 'up' ? 'down' : 'up';
      this.#begin(back);
      this.#send(message, back);
    } else if (kind === 'swapped' || kind === 'dropped') {
      if (!this.#held) {
        this.#held = message;
        return;
      }
      this.#begin(direction);
      this.#send(message, direction);
      if (kind === 'swapped') this.#send(this.#held, direction);
    } else {
      this.#begin(direction);
      this.#forge(kind, message, direction);
      if (kind === SWALLOWING) return;
    }
    for (let left = plan.burst - 1; left > 0; left--) {
      this.#forge(IMMEDIATE[randomInt(IMMEDIATE.length)], message, direction);
    }
    // If the victim went on as if nothing had been, what is genuine would come through.
    if (FORGERIES[kind]) this.#send(message, direction);
  }

  #forge(kind, message, direction) {
    const frames = innerFrames(message);
    const genuine = frames[randomInt(frames.length)];
    const packet = Buffer.from(this.#plan.packets[direction]);
    this.#write(FORGERIES[kind](genuine, direction === 'up', packet), direction);
    this.#proxy.count(1);
  }

  /** From here on, who is at the end of `direction` gets what is false. */
  #begin(direction) {
    this.#victim = this.#ends[direction];
    this.#harmedAt = performance.now();
    this.#proxy.count(FORGERIES[this.#plan.kind] ? 0 : 1, this.#plan);
  }

  #countClose(code) {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { kind, direction, inHandshake } = this.#plan;
    // Before there are keys a client has to believe it, and takes it for a hint.
    const isHint = kind === 'a plain Disconnect' && direction === 'down' && inHandshake;
    const stage = inHandshake ? ' in the handshake' : '';
    const told = code === 'none' ? `none (${direction}, ${kind}${stage})` : code;
    this.#proxy.countClose(isHint ? 'after a hint' : told, performance.now() - this.#harmedAt);
  }
}

/**
 * Starts a hostile proxy on a host; the methods of {@link HostileProxy} can be called here.
 *
 * @param {{ agent: Function }} site
 * @param {import('../../../scripts/lab.mjs').Host} host
 * @param {{ listen: object, to: object, certificate: string, key: string }} options
 * @returns {Promise<Record<'pass' | 'reframe' | 'harm' | 'counts', Function>>}
 */
export async function openHostileProxy(site, host, options) {
  const agent = await site.agent(host);
  await agent.run(
    async ({ load }, module, given) => {
      globalThis.proxy = await (await load(module)).HostileProxy.open(given);
    },
    import.meta.url,
    options,
  );
  return Object.fromEntries(
    ['pass', 'reframe', 'harm', 'counts'].map((name) => [
      name,
      (...args) => agent.run((_, method, list) => globalThis.proxy[method](...list), name, args),
    ]),
  );
}
