'use strict';

const net = require('node:net');

const { VpnError, toVpnError } = require('../error.js');
const { reconnectDelay } = require('./backoff.js');
const { Channel } = require('./channel.js');
const {
  Connection,
  kAnswer,
  kAsk,
  kEvent,
  kFail,
  kFinish,
  kOpen,
  kOpened,
  kPhase,
  kRejectCalls,
  kSend,
  kShutDown,
} = require('./connection.js');
const { toRequestLine } = require('./lines.js');

const DEFAULTS = {
  autoReconnect: true,
  reconnectBaseDelayMs: 100,
  reconnectMaxDelayMs: 30_000,
  maxReconnectAttempts: 10,
};

/** How long what was asked last may take to reach a daemon that does not read, when the socket is closed. */
const FLUSH_TIMEOUT_MS = 1000;

/** A connection to a daemon that runs already. The VPN is the daemon's, and goes on without us. */
class SocketConnection extends Connection {
  #options;
  #mode;
  #name;
  /** @type {net.Socket | null} */
  #socket = null;
  /** @type {Channel | null} */
  #channel = null;
  /** Whether the daemon is there and takes calls. */
  #ready = false;
  /** The requests that wait for the connection to come back, as lines, in their order. */
  #waiting = [];
  #waitingBytes = 0;
  /** Attempts since the connection last worked. */
  #attempts = 0;
  #timer;
  /** What the daemon said it failed of. */
  #failure;

  /**
   * @param {{ socketPath: string } & Partial<typeof DEFAULTS>} options
   * @param {'client' | 'server'} mode
   * @param {import('./connection.js').ConnectionObserver} observer
   */
  constructor(options, mode, observer) {
    super(observer);
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    this.#options = { ...DEFAULTS, ...Object.fromEntries(given) };
    this.#mode = mode;
    this.#name = `The daemon at ${options.socketPath}`;
  }

  get ownsVpn() {
    return false;
  }

  [kOpen]() {
    this.#attempt();
  }

  [kSend](id, method, params) {
    const waitingBytes = this.#ready ? this.#channel.waitingBytes : this.#waitingBytes;
    const line = toRequestLine(id, method, params, waitingBytes);
    if (this.#ready) {
      this.#channel.send(line);
    } else {
      this.#waiting.push(line);
      this.#waitingBytes += line.length;
    }
  }

  [kShutDown]() {
    // Not before stop() has returned, whose caller may listen for it only then.
    this.#close(() => setImmediate(() => this[kFinish]({ code: 0, signal: null })));
  }

  #attempt() {
    const socket = new net.Socket();
    this.#socket = socket;
    let cause;
    socket.on('error', (error) => (cause = error));
    socket.on('close', () => {
      if (this.#socket === socket) this.#onLost(this.#unavailable(cause));
    });
    this.#channel = new Channel({ input: socket, output: socket }, this.#mode, this.#name, {
      onReady: () => this.#onReady(),
      onAnswer: (id, success, body) => this[kAnswer](id, success, body),
      onEvent: (name, data) => this.#onEvent(name, data),
      onFault: (error, retriable) => {
        if (retriable) this.#onLost(error);
        else this.#giveUp(error);
      },
    });
    // Only the keep-alive of the engine holds the event loop.
    socket.unref();
    try {
      socket.connect(this.#options.socketPath);
    } catch (error) {
      socket.destroy(error);
    }
  }

  #onReady() {
    this.#ready = true;
    if (this[kPhase] === 'opening') {
      this[kOpened]();
      return;
    }
    this.#catchUp();
    this[kEvent]('reconnected');
  }

  /** Tells what the events of the gap would have told, and sends what has waited. */
  #catchUp() {
    this[kAsk]('getStatus', (error, status) => {
      if (error || !status) return;
      this.#attempts = 0;
      this[kEvent]('status', status);
    });
    for (const line of this.#waiting.splice(0)) this.#channel.send(line);
    this.#waitingBytes = 0;
  }

  #onEvent(name, data) {
    // Its engine failed, and it ends by itself.
    if (name === 'exit') this.#failure = toVpnError(data);
    else this[kEvent](name, data);
  }

  /** The connection is no more, or did not come about. */
  #onLost(error) {
    const dropped = this.#ready;
    this.#close();
    if (this[kPhase] !== 'open') {
      this.#giveUp(error);
      return;
    }
    if (dropped) this.#rejectSent();
    const { autoReconnect, maxReconnectAttempts } = this.#options;
    if (!autoReconnect || this.#attempts >= maxReconnectAttempts) {
      this.#giveUp(this.#exhausted(error));
      return;
    }
    const delayMs = reconnectDelay(this.#attempts, this.#options, Math.random());
    this.#attempts++;
    this.#timer = setTimeout(() => this.#attempt(), delayMs);
    this.#timer.unref();
    if (dropped) this.#log(`${this.#name} closed the control connection; connecting again.`);
  }

  #giveUp(error) {
    if (this.#ready) this.#rejectSent();
    this[kFail](error);
    this.#close(() => this[kFinish]({ code: 1, signal: null, error }));
  }

  /** The daemon may have done what it was asked, or not. */
  #rejectSent() {
    const reason = this.#failure ? `, because of ${this.#failure.code} (${this.#failure.message})` : '';
    const message = `${this.#name} closed the connection before it answered${reason}. It may have done what it was asked.`;
    this[kRejectCalls]('control-disconnected', message, this.#failure);
    this.#failure = undefined;
  }

  /** Lets go of the socket, once what was sent has left this process. */
  #close(closed = () => {}) {
    const [socket, wasReady] = [this.#socket, this.#ready];
    this.#ready = false;
    this.#socket = null;
    clearTimeout(this.#timer);
    this.#channel?.close();
    this.#channel = null;
    if (!socket || socket.destroyed || !wasReady) {
      socket?.destroy();
      closed();
      return;
    }
    const late = setTimeout(() => socket.destroy(), FLUSH_TIMEOUT_MS);
    socket.once('close', () => {
      clearTimeout(late);
      closed();
    });
    socket.end(() => socket.destroy());
  }

  #log(message) {
    this[kEvent]('log', { level: 'warn', target: 'control', message, time: new Date().toISOString() });
  }

  /** Why the daemon could not be reached, or is gone, and what to do. */
  #unavailable(cause) {
    const command = `smartvpn_daemon --management-socket ${this.#options.socketPath} --mode ${this.#mode}`;
    const atOnce =
      'closed the connection at once: it admits root, the user it runs as, and the group of its --management-group';
    const reasons = {
      ENOENT: `is not there: there is no such socket. \`${command}\` starts it`,
      ECONNREFUSED: `has ended: nobody listens. \`${command}\` starts it`,
      EACCES:
        'may not be reached by this user: only root, the user it runs as, and its --management-group may',
      EAGAIN: 'is busy: too many connections wait to be taken. Try again in a moment',
      ECONNRESET: atOnce,
      EPIPE: atOnce,
    };
    const why = cause ? (reasons[cause.code] ?? `could not be reached: ${cause.message}`) : atOnce;
    const reason = this.#ready ? 'closed the control connection' : why;
    return new VpnError('control-unavailable', `${this.#name} ${reason}.`, { cause });
  }

  #exhausted(error) {
    const { autoReconnect, maxReconnectAttempts } = this.#options;
    const message =
      autoReconnect && maxReconnectAttempts > 0
        ? `The control connection did not come back in ${maxReconnectAttempts} attempts. ${error.message}`
        : `${this.#name} closed the control connection, and it is not to be taken up again.`;
    return new VpnError('control-unavailable', `${message} start() begins anew.`, { cause: error.cause });
  }
}

module.exports = { SocketConnection };
