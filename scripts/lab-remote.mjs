/** The near end of lab-agent.mjs: a Node process in a host of a lab, and the VPNs it holds. */
import { EventEmitter, once } from 'node:events';
import { fileURLToPath } from 'node:url';

import platform from '../lib/platform.js';

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

  #host;
  #transport;
  #child;
  #calls = new Map();
  #lastId = 0;
  #vpns = new Map();
  #daemons = [];
  #end = null;

  /**
   * Starts the process; rejects if it ends before it is ready.
   *
   * @param {import('./lab.mjs').Host} host
   * @param {{ wrap?: string[], library?: string, env?: object, transport?: string }} [options] `wrap` goes
   *   before the command; `library` is the module under test, as a path from this folder; `transport` is
   *   how its VPNs reach their engines unless they are told: with `socket`, each has a daemon of its own
   */
  static async start(host, { wrap = [], library = '../index.js', env, transport } = {}) {
    const child = host.spawn([...wrap, process.execPath, AGENT, library], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      serialization: 'advanced',
      env: { ...process.env, NODE_TEST_CONTEXT: undefined, ...env },
    });
    const agent = new Agent(host, child, transport);
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
  constructor(host, child, transport) {
    this.#host = host;
    this.#transport = transport;
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
   * Closes the VPNs of the process and lets it end; kills it, and rejects, when it takes too long. Then
   * its daemons end. Idempotent.
   */
  async close() {
    try {
      await within(this.#closeGently(), CLOSE_TIMEOUT_MS, 'The process did not end');
    } catch (error) {
      await this.kill();
      throw error;
    } finally {
      await Promise.all(this.#daemons.splice(0).map((daemon) => daemon.close()));
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
    const given = { transport: options?.transport ?? (await this.#way(className)), ...options };
    await this.run((context, ...args) => context.create(...args), id, className, given);
    return vpn;
  }

  async #way(className) {
    if (this.#transport !== 'socket') return this.#transport && { transport: this.#transport };
    const daemon = await Daemon.start(this.#host, className === 'VpnServer' ? 'server' : 'client');
    this.#daemons.push(daemon);
    return { transport: 'socket', socketPath: daemon.socketPath };
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

/** A `smartvpn_daemon` in a host of a lab, controlled by its socket. */
export class Daemon {
  /** @type {string} everything it has printed */
  output = '';

  #child;

  /**
   * Starts it; rejects if it ends before anybody can connect.
   *
   * @param {import('./lab.mjs').Host} host
   * @param {'client' | 'server'} mode
   * @param {{ socketPath?: string, args?: string[] }} [options]
   */
  static async start(host, mode, { socketPath = `/run/lab/${nextDaemon++}.sock`, args = [] } = {}) {
    const child = host.spawn(
      [platform.findDaemon(), '--management-socket', socketPath, '--mode', mode, ...args],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    const daemon = new Daemon(child, socketPath);
    const listens = `for try in $(seq 500); do [ -S '${socketPath}' ] && exit 0; sleep 0.01; done; exit 1`;
    await Promise.race([
      host.sh(listens),
      daemon.ended.then(() => {
        throw new Error(`The daemon ended: ${daemon.output}`);
      }),
    ]);
    return daemon;
  }

  /** @private use {@link Daemon.start} */
  constructor(child, socketPath) {
    this.socketPath = socketPath;
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (this.output += text));
    }
    /** @type {Promise<{ code: number | null, signal: string | null }>} how it ended */
    this.ended = once(child, 'exit').then(([code, signal]) => ({ code, signal }));
  }

  /** @returns {number} the process id, which is the same in the host */
  get pid() {
    return this.#child.pid;
  }

  /** Sends it a signal and waits for its end. */
  async kill(signal = 'SIGKILL') {
    this.#child.kill(signal);
    return this.ended;
  }

  /** Ends it in good order, unless it has ended; rejects when it takes too long. Idempotent. */
  async close() {
    const ending = this.kill('SIGTERM');
    try {
      const { code } = await within(ending, CLOSE_TIMEOUT_MS, 'The daemon did not end');
      if (code !== 0 && code !== null) throw new Error(`The daemon failed: ${this.output}`);
    } catch (error) {
      await this.kill();
      throw error;
    }
  }
}

let nextDaemon = 1;

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

  /**
   * Starts a server whose `authenticate` is a function that is sent as text; what it leaves in the global `asked`, an
   * array, can be read by {@link Agent.run}.
   */
  startAsking(config, authenticate) {
    return this.#agent.run(
      async ({ vpns }, id, settings, source) => {
        globalThis.asked = [];
        // oxlint-disable-next-line no-eval -- the function must live where it is called
        await vpns.get(id).start({ ...settings, authenticate: (0, eval)(`(${source})`) });
      },
      this.#id,
      config,
      String(authenticate),
    );
  }

  /** Reads a member of the object. */
  get(member) {
    return this.#agent.run(({ vpns }, id, name) => vpns.get(id)[name], this.#id, member);
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
  'setClientRateLimit', 'removeClientRateLimit', 'getClientTelemetry', 'addClient', 'updateClient',
  'removeClient', 'listRegisteredClients', 'createInvite',
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
  if (value?.error?.isError) return { ...value, error: revive(value.error) };
  if (!value?.isError) return value;
  const { isError: _, message, cause, ...members } = value;
  return Object.assign(new Error(message, cause && { cause: revive(cause) }), members);
}
