/** A TCP relay that does on order what networks and middleboxes do to connections. */
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** What one direction of a connection holds before its sender has to wait: a second of 32 Mbit/s. */
const HELD = 4 << 20;

/** The most that is passed on in one write where segments are merged. */
const MERGED = 256 * 1024;

/** How long what is held is gathered where segments are merged, in milliseconds. */
const MERGE_MS = 5;

/**
 * The relay itself. It runs in an agent on a host; {@link openRelay} starts it there and hands on its methods.
 *
 * @typedef {'up' | 'down'} Direction `up` is towards the server
 */
export class Relay {
  /** Connections so far. */
  accepted = 0;

  #listenAt;
  #to;
  #listener;
  #pairs = new Set();
  #delayMs = { up: 0, down: 0 };
  #stalled = null;
  #single = { up: 0, down: 0 };
  #merges = false;

  /** @param {{ listen: { host: string, port: number }, to: { host: string, port: number } }} options */
  static async open({ listen, to }) {
    const relay = new Relay(listen, to);
    await relay.refuse(false);
    return relay;
  }

  constructor(listenAt, to) {
    this.#listenAt = listenAt;
    this.#to = to;
  }

  /** Holds what passes for so long, each way. */
  delay(ms) {
    this.#delayMs = { up: ms, down: ms };
  }

  /** Holds everything until `resume()`. */
  stall() {
    if (this.#stalled) return;
    let resolve;
    const promise = new Promise((done) => (resolve = done));
    this.#stalled = { promise, resolve };
  }

  resume() {
    this.#stalled?.resolve();
    this.#stalled = null;
  }

  /** Passes on the next `bytes` of each direction one by one, a segment for each. */
  single(bytes) {
    this.#single = { up: bytes, down: bytes };
  }

  /** Whether what comes within a few milliseconds is passed on in one write. */
  merge(merges) {
    this.#merges = merges;
  }

  /** Refuses new connections, or takes them again. Those that are there go on. */
  async refuse(refuses) {
    if (!refuses === Boolean(this.#listener)) return;
    if (refuses) {
      this.#listener.close();
      this.#listener = undefined;
      return;
    }
    this.#listener = createServer({ noDelay: true, allowHalfOpen: true }, (socket) => this.#accept(socket));
    this.#listener.listen(this.#listenAt);
    await once(this.#listener, 'listening');
  }

  /**
   * Cuts all connections, each as soon as `after` more bytes have passed towards the client.
   *
   * @param {'reset' | 'end'} how
   * @returns {number} how many
   */
  cut(how, after = 0) {
    const pairs = [...this.#pairs];
    for (const pair of pairs) {
      pair.cut = { how, after };
      if (after === 0) this.#end(pair);
    }
    return pairs.length;
  }

  /** How many connections there are. */
  connections() {
    return this.#pairs.size;
  }

  #accept(client) {
    this.accepted += 1;
    const server = connect({ ...this.#to, noDelay: true, allowHalfOpen: true });
    const pair = { client, server, cut: null };
    this.#pairs.add(pair);
    for (const socket of [client, server]) {
      socket.on('error', () => this.#end(pair));
      socket.once('close', () => client.destroyed && server.destroyed && this.#pairs.delete(pair));
    }
    void this.#pass(pair, client, server, 'up');
    void this.#pass(pair, server, client, 'down');
  }

  #end(pair) {
    const reset = pair.cut?.how !== 'end';
    for (const socket of [pair.client, pair.server]) {
      if (socket.destroyed) continue;
      if (reset) socket.resetAndDestroy();
      else socket.destroySoon();
    }
    this.#pairs.delete(pair);
  }

  /** Passes on what comes, in order, when it is due. */
  async #pass(pair, from, to, direction) {
    const held = [];
    let bytes = 0;
    let wake = () => {};
    let ended = false;
    from.on('data', (chunk) => {
      held.push({ chunk, due: performance.now() + this.#delayMs[direction] });
      bytes += chunk.length;
      if (bytes > HELD) from.pause();
      wake();
    });
    const end = () => {
      ended = true;
      wake();
    };
    from.once('end', end).once('close', end);

    while (!to.destroyed) {
      if (held.length === 0) {
        if (ended) break;
        await new Promise((resolve) => (wake = resolve));
        continue;
      }
      const wait = held[0].due - performance.now();
      if (wait > 0) await sleep(wait);
      if (this.#merges) await sleep(MERGE_MS);
      if (this.#stalled) await this.#stalled.promise;
      let { chunk } = held.shift();
      while (this.#merges && held[0]?.due <= performance.now() && chunk.length < MERGED) {
        chunk = Buffer.concat([chunk, held.shift().chunk]);
      }
      bytes -= chunk.length;
      if (bytes <= HELD && from.isPaused()) from.resume();
      await this.#write(pair, to, chunk, direction);
    }
    if (!to.destroyed) to.end();
  }

  async #write(pair, to, chunk, direction) {
    const cut = direction === 'down' && pair.cut;
    if (cut && cut.after < chunk.length) {
      await written(to, chunk.subarray(0, cut.after));
      this.#end(pair);
      return;
    }
    if (cut) cut.after -= chunk.length;
    const single = Math.min(this.#single[direction], chunk.length);
    this.#single[direction] -= single;
    for (let at = 0; at < single && !to.destroyed; at++) await written(to, chunk.subarray(at, at + 1));
    if (single < chunk.length && !to.destroyed && !to.write(chunk.subarray(single))) await drained(to);
  }
}

/** Resolves when the kernel has it, or the socket is gone. */
function written(socket, bytes) {
  return new Promise((resolve) => socket.write(bytes, resolve));
}

function drained(socket) {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done).off('close', done);
      resolve();
    };
    socket.once('drain', done).once('close', done);
  });
}

/**
 * Starts a relay on a host; the methods of {@link Relay} can be called here, and resolve when they are carried out.
 *
 * @param {{ agent: Function }} site
 * @param {import('../../../scripts/lab.mjs').Host} host
 * @param {{ listen: { host: string, port: number }, to: { host: string, port: number } }} options
 * @returns {Promise<Record<'delay' | 'stall' | 'resume' | 'single' | 'merge' | 'refuse' | 'cut' | 'connections', Function>>}
 */
export async function openRelay(site, host, options) {
  const agent = await site.agent(host);
  await agent.run(
    async ({ load }, module, given) => {
      globalThis.relay = await (await load(module)).Relay.open(given);
    },
    import.meta.url,
    options,
  );
  const order =
    (name) =>
    async (...args) =>
      agent.run((_, method, list) => globalThis.relay[method](...list), name, args);
  return Object.fromEntries(
    ['delay', 'stall', 'resume', 'single', 'merge', 'refuse', 'cut', 'connections'].map((name) => [
      name,
      order(name),
    ]),
  );
}
