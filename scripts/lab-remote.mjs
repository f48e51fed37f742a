/** The near end of lab-agent.mjs: a Node process in a host of a lab, and the VPNs it holds. */
import { EventEmitter, once } from 'node:events';
import { fileURLToPath } from 'node:url';

const AGENT = fileURLToPath(new URL('./lab-agent.mjs', import.meta.url));

/** How long an event may take that a caller waits for, in milliseconds. */
const EVENT_TIMEOUT_MS = 10_000;

/** How long a function may run in the agent, in milliseconds. */
const CALL_TIMEOUT_MS = 60_000;

/** How long an agent may take to close its VPNs and end, in milliseconds. */
const CLOSE_TIMEOUT_MS = 10_000;

export class Agent {
  /** @type {string} everything the process has printed to stderr */
  stderr = '';
  /** @type {string} everything the process has printed to stdout */
  stdout = '';
  /** @type {Promise<{ code: number | null, signal: string | null }>} how the process ended */
  ended;

  #child;
  #calls = new Map();
  #lastId = 0;
  #vpns = new Map();
  #end = null;

  /**
   * Starts the process; rejects if it ends before it is ready.
   *
   * @param {import('./lab.mjs').Host} host
   * @param {{ wrap?: string[], library?: string, env?: object }} [options] `wrap` goes before the
   *   command; `library` is the module under test, as a path from this folder
   */
  static async start(host, { wrap = [], library = '../index.js', env } = {}) {
    const child = host.spawn([...wrap, process.execPath, AGENT, library], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      serialization: 'advanced',
      env: { ...process.env, NODE_TEST_CONTEXT: undefined, ...env },
    });
    const agent = new Agent(child);
    await Promise.race([
      once(child, 'message'),
      agent.ended.then(() => {
        throw agent.#gone();
      }),
    ]);
    child.on('message', (message) => agent.#receive(message));
    return agent;
  }

  /** @private use {@link Agent.start} */
  constructor(child) {
    this.#child = child;
    child.stdout.setEncoding('utf8').on('data', (text) => (this.stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text) => (this.stderr += text));
    // Not the event `close`: it does not come after `disconnect()`.
    const drained = [child.stdout, child.stderr].map((stream) => once(stream, 'close'));
    this.ended = Promise.all([once(child, 'exit'), ...drained]).then(([[code, signal]]) => {
      this.#end = { code, signal };
      for (const { reject } of this.#calls.values()) reject(this.#gone());
      this.#calls.clear();
      return this.#end;
    });
  }

  /** Whether the process still runs. */
  get running() {
    return this.#end === null;
  }

  /** @returns {number} the process id, which is the same in the host */
  get pid() {
    return this.#child.pid;
  }

  /**
   * Runs a function in the process and resolves with what it returns. It is sent as text, so it
   * sees nothing of its surroundings but its arguments: the agent's context, then `args`.
   */
  run(task, ...args) {
    if (!this.running) return Promise.reject(this.#gone());
    const id = ++this.#lastId;
    const source = String(task);
    const answer = new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.#child.send({ id, source, args }, (error) => {
        if (error && this.#calls.delete(id)) reject(error);
      });
    });
    return within(answer, CALL_TIMEOUT_MS, `No answer to ${source} ${JSON.stringify(args)}`);
  }

  /** Makes a `VpnClient` in the process. */
  client(options) {
    return this.#create('VpnClient', options);
  }

  /** Makes a `VpnClient` in the process and starts its engine, so that it can connect. */
  async startedClient(options) {
    const vpn = await this.client(options);
    await vpn.start();
    return vpn;
  }

  /** Makes a `VpnServer` in the process. */
  server(options) {
    return this.#create('VpnServer', options);
  }

  /** Sends the process a signal, SIGKILL unless told otherwise, and waits for its end. */
  async kill(signal = 'SIGKILL') {
    this.#child.kill(signal);
    return this.ended;
  }

  /** Lets go of the process: only what it does itself still holds its event loop. */
  async release() {
    await this.run(() => void setImmediate(() => process.channel.unref()));
  }

  /**
   * Closes the VPNs of the process and lets it end; kills it, and rejects, when it takes too long.
   * Idempotent.
   */
  async close() {
    try {
      await within(this.#closeGently(), CLOSE_TIMEOUT_MS, 'The process did not end');
    } catch (error) {
      await this.kill();
      throw error;
    }
    return this.ended;
  }

  async #closeGently() {
    if (!this.running) return;
    const closing = this.run(({ vpns }) =>
      Promise.all([...vpns.values()].map((vpn) => vpn.close())).then(() => {}),
    );
    await Promise.race([closing, this.ended]);
    if (this.#child.connected) this.#child.disconnect();
    await this.ended;
  }

  async #create(className, options) {
    const id = ++this.#lastId;
    const vpn = new RemoteVpn(this, id);
    this.#vpns.set(id, vpn);
    await this.run((context, ...args) => context.create(...args), id, className, options);
    return vpn;
  }

  #receive({ id, vpn, event, args, value, error }) {
    if (event !== undefined) {
      this.#vpns.get(vpn).receive(event, args.map(revive));
      return;
    }
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    if (error) call.reject(revive(error));
    else call.resolve(value);
  }

  #gone() {
    const { code, signal } = this.#end;
    const words = this.stderr.trim();
    return new Error(`The process ended (${signal ?? `exit code ${code}`})${words && `: ${words}`}`);
  }
}

/**
 * A `VpnClient` or `VpnServer` in another process. It has their methods; their events are emitted
 * here and kept in `events`.
 */
export class RemoteVpn extends EventEmitter {
  /** @type {{ name: string, args: unknown[] }[]} every event so far, in order */
  events = [];

  #agent;
  #id;

  constructor(agent, id) {
    super();
    this.#agent = agent;
    this.#id = id;
  }

  /** Calls a method of the object. */
  call(method, ...args) {
    return this.#agent.run(({ vpns }, id, name, list) => vpns.get(id)[name](...list), this.#id, method, args);
  }

  /** @private an event came */
  receive(name, args) {
    this.events.push({ name, args });
    this.emit(name, ...args);
    this.emit('*', name, args);
  }

  /** Forgets the events so far. */
  forget() {
    this.events = [];
  }

  /** The first arguments of all events of one name so far. */
  seen(name) {
    return this.events.filter((event) => event.name === name).map(({ args }) => args[0]);
  }

  /**
   * Resolves with the first argument of the first event of that name that meets the condition,
   * one that came already included.
   */
  async event(name, meets = () => true, timeoutMs = EVENT_TIMEOUT_MS) {
    const deadline = AbortSignal.timeout(timeoutMs);
    for (;;) {
      const match = this.seen(name).find(meets);
      if (match !== undefined || this.seen(name).some(meets)) return match;
      try {
        await once(this, name, { signal: deadline });
      } catch (error) {
        if (error.name !== 'AbortError') throw error;
        const came = this.events.map((event) => event.name).join(', ') || 'none';
        throw new Error(`No such event \`${name}\` within ${timeoutMs} ms; came: ${came}`, { cause: error });
      }
    }
  }
}

// The methods of the API that return promises, so that `client.connect(config)` reads as in a program.
for (const method of [
  'start', 'connect', 'disconnect', 'getStatus', 'getStatistics', 'getConnectionQuality',
  'getMtuInfo', 'close', 'stopServer', 'listClients', 'disconnectClient', 'generateKeypair',
  'setClientRateLimit', 'removeClientRateLimit', 'getClientTelemetry',
]) {
  RemoteVpn.prototype[method] = function (...args) {
    return this.call(method, ...args);
  };
} // prettier-ignore

/** What the promise settles to, or a rejection when that takes too long. */
async function within(promise, timeoutMs, complaint) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${complaint} within ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** An error as it was thrown over there, its class apart. */
function revive(value) {
  if (!value?.isError) return value;
  const { isError: _, message, cause, ...members } = value;
  return Object.assign(new Error(message, cause && { cause: revive(cause) }), members);
}
