'use strict';

const { makeConnection } = require('./connection/index.js');
const hostGuard = require('./host-guard.js');
const { KeepAlive } = require('./keep-alive.js');

/** The states of a tunnel, or of a server, in which something of it is set on the host. */
const ACTIVE_STATES = new Set(['connecting', 'handshaking', 'connected', 'reconnecting']);

/** The state that each of these methods leads to; the others change nothing that lasts. */
const OUTCOMES = new Map([
  ['connect', 'connected'],
  ['start', 'connected'],
  ['disconnect', 'disconnected'],
  ['stopServer', 'disconnected'],
]);

/**
 * The engines that do something, have been asked something, or have something set: none of them may be
 * collected, whether or not the program still knows its object. Others may, as an idle object can.
 *
 * @type {Set<Engine>}
 */
const busy = new Set();

/**
 * One engine, from its start to its end: follows its state, and accordingly holds the event loop
 * and has the host guarded.
 */
class Engine {
  /** Whether a `start()` has succeeded, so that the program is owed an `exit`. */
  announced = false;

  #connection;
  #observer;
  #keepAlive = new KeepAlive();
  #referenced;
  #opening = true;
  #ending = false;
  #ended = false;
  #failure;

  /** @type {string | undefined} `undefined` while a daemon that ran before us has not told it */
  #state;
  /** How often the engine has told its state. */
  #tellings = 0;
  /** Calls in flight that set up what lasts, and all others. */
  #building = 0;
  #asking = 0;

  /**
   * @param {import('./connection/connection.js').ConnectionObserver} observer
   * @param {boolean} referenced whether to hold the event loop while something lasts
   */
  constructor(observer, referenced) {
    this.#observer = observer;
    this.#referenced = referenced;
  }

  /**
   * @param {Parameters<typeof makeConnection>[0]} transport
   * @param {'client' | 'server'} mode
   * @returns {Promise<void>} rejects `aborted` if `end()` comes first
   */
  async open(transport, mode) {
    this.#connection = makeConnection(transport, mode, {
      onEvent: (name, data) => this.#onEvent(name, data),
      onEnd: (end) => this.#onEnd(end),
    });
    if (this.#connection.ownsVpn) {
      this.#state = 'disconnected';
      hostGuard.guard(this);
    }
    this.#update();
    await this.#connection.open();
    this.#opening = false;
    this.#update();
  }

  /** Whether it has ended, and of what, unless it was told to. */
  get ended() {
    return this.#ended;
  }

  get failure() {
    return this.#failure;
  }

  /** Whether what this engine does is known: of a daemon that ran before us it has to be asked. */
  get known() {
    return this.#state !== undefined;
  }

  /** Whether something is set on the host or about to be. */
  get active() {
    return this.#building > 0 || ACTIVE_STATES.has(this.#state);
  }

  /** Whether no call is in flight. */
  get idle() {
    return this.#building + this.#asking === 0;
  }

  set referenced(referenced) {
    this.#referenced = referenced;
    this.#update();
  }

  /**
   * @param {string} method
   * @param {Record<string, unknown>} [params]
   * @returns {Promise<any>}
   */
  async request(method, params) {
    const outcome = OUTCOMES.get(method);
    const told = this.#tellings;
    this.#count(outcome, 1);
    try {
      const result = await this.#connection.request(method, params);
      // Answers and events come by ways of their own; a state that was told meanwhile is the newer.
      const state = method === 'getStatus' ? result?.state : outcome;
      if (state && this.#tellings === told) this.#state = state;
      return result;
    } finally {
      this.#count(outcome, -1);
    }
  }

  /** @returns {Promise<void>} */
  end() {
    if (!this.#connection) return Promise.resolve();
    this.#ending = true;
    const ended = this.#connection.end();
    this.#update();
    return ended;
  }

  /** For the host guard: see the connection's. */
  undo(timeoutMs) {
    return this.#connection.undo(timeoutMs);
  }

  #count(outcome, change) {
    if (outcome === 'connected') this.#building += change;
    else this.#asking += change;
    this.#update();
  }

  #onEvent(name, data) {
    if (name === 'status') this.#tell(data.state);
    if (name === 'lost') this.#askState();
    if (!this.#ending) this.#observer.onEvent(name, data);
  }

  #tell(state) {
    this.#state = state;
    this.#tellings++;
    this.#update();
  }

  /** A change of state may be among the events that were lost. */
  #askState() {
    const told = this.#tellings;
    this.#connection.request('getStatus').then(
      (status) => {
        if (this.#tellings === told) this.#tell(status?.state);
      },
      () => {
        // The engine has ended, which is state enough, or has too much to answer already.
      },
    );
  }

  #onEnd(end) {
    this.#ended = true;
    this.#failure = end.error;
    this.#keepAlive.set(false);
    busy.delete(this);
    if (this.#connection.ownsVpn) hostGuard.unguard(this);
    this.#observer.onEnd(end);
  }

  #update() {
    if (this.#ended) return;
    const lasting = this.active;
    const working = this.#opening || this.#ending || this.#asking > 0;
    if (working || lasting) busy.add(this);
    else busy.delete(this);
    this.#keepAlive.set(working || (lasting && this.#referenced));
    if (this.#connection.ownsVpn) hostGuard.setActive(this, this.#ending || lasting);
  }
}

module.exports = { Engine };
