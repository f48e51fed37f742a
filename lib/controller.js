'use strict';

const { EventEmitter } = require('node:events');

const { copyConfig, requireOptions } = require('./arguments.js');
const { parseTransport } = require('./connection/index.js');
const { Engine } = require('./engine.js');
const { VpnError } = require('./error.js');

const kAnnounce = Symbol('kAnnounce');
const kConfigure = Symbol('kConfigure');
const kDiscard = Symbol('kDiscard');
const kIdle = Symbol('kIdle');
const kKnown = Symbol('kKnown');
const kOpen = Symbol('kOpen');
const kRequest = Symbol('kRequest');

/** The codes with which a daemon is given up: later calls are told so, rather than that nothing runs. */
const GIVEN_UP = new Set(['control-unavailable', 'wrong-mode']);

/**
 * What `VpnClient` and `VpnServer` have in common: an engine that is started and ended, is asked,
 * and tells.
 */
class Controller extends EventEmitter {
  #mode;
  #events;
  #callbacks;
  #transport;
  #config;
  #referenced = true;
  /** @type {Engine | null} the one that runs */
  #engine = null;
  /** @type {Engine | null} the one that is being started */
  #next = null;
  /** @type {VpnError | undefined} what the last engine failed of, until the next start() or stop() */
  #failure;
  /** @type {Promise<void> | null} a start under way */
  #opening = null;
  /** Settled when every engine before has ended, and what it held is free again. */
  #past = Promise.resolve();
  #stops = 0;

  /**
   * @param {'client' | 'server'} mode
   * @param {string[]} events the names that are passed on
   * @param {unknown} options
   * @param {string[]} [callbacks] the fields of a configuration that hold functions
   */
  constructor(mode, events, options = {}, callbacks = []) {
    requireOptions(options, 'options', ['transport', 'config']);
    super();
    this.#mode = mode;
    this.#events = new Set(events);
    this.#callbacks = callbacks;
    this.#transport = parseTransport(options.transport);
    if (options.config !== undefined) this[kConfigure](options.config);
  }

  get running() {
    return this.#engine !== null;
  }

  ref() {
    return this.#reference(true);
  }

  unref() {
    return this.#reference(false);
  }

  stop() {
    this.#stops++;
    const engine = this.#engine ?? this.#next;
    if (engine) this.#past = engine.end();
    this.#opening = null;
    this.#engine = null;
    this.#next = null;
    this.#failure = undefined;
    // Whoever calls close() is told of a failure; stop() tells by `exit`.
    this.#past.catch(() => {});
  }

  close() {
    this.stop();
    return this.#past;
  }

  [Symbol.asyncDispose]() {
    return this.close();
  }

  /** Starts an engine unless one runs; a `start()` that has then done all it does announces it. */
  [kOpen]() {
    if (this.#engine) return Promise.resolve();
    if (!this.#opening) {
      const opening = this.#open();
      this.#opening = opening;
      opening.catch(() => {
        if (this.#opening === opening) this.#opening = null;
      });
    }
    return this.#opening;
  }

  /** From now on, the end of this engine is told by `exit`. */
  [kAnnounce]() {
    if (!this.#engine) throw this.#failure ?? stopped();
    this.#engine.announced = true;
  }

  /** Ends the engine of a `start()` that failed, unless there is another use for it. */
  async [kDiscard]() {
    const engine = this.#engine;
    if (!engine || engine.announced || !engine.idle) return;
    this.stop();
    await this.#past.catch(() => {});
  }

  /** Whether nothing of the engine is set on the host, nor is about to be. */
  get [kIdle]() {
    return !this.#engine?.active;
  }

  /** Whether that is known: a daemon that ran before us has to be asked. */
  get [kKnown]() {
    return this.#engine?.known ?? true;
  }

  /** The configuration in force: `config` replaces the one before, whole. */
  [kConfigure](config) {
    if (config !== undefined) this.#config = this.#copy(config);
    return this.#config;
  }

  #copy(config) {
    const copy = copyConfig(config, this.#callbacks);
    const path = this.#callbacks.find((name) => copy[name] !== undefined);
    if (path === undefined || this.#transport.transport === 'inprocess') return copy;
    throw new VpnError(
      'invalid-config',
      `${path} is a function of this process, and only a server in this process can call it: leave it out, or use the transport "inprocess".`,
      { path },
    );
  }

  /**
   * @param {string} method
   * @param {Record<string, unknown>} [params]
   */
  async [kRequest](method, params) {
    if (!this.#engine) {
      const { code, message } = this.#failure ?? {};
      if (GIVEN_UP.has(code)) throw new VpnError(code, message, { cause: this.#failure });
      throw new VpnError('not-running', `The ${this.#mode}'s engine is not running: call start() first.`);
    }
    return this.#engine.request(method, params);
  }

  #reference(referenced) {
    this.#referenced = referenced;
    if (this.#engine) this.#engine.referenced = referenced;
    return this;
  }

  async #open() {
    const stops = this.#stops;
    await this.#past.catch(() => {});
    if (this.#stops !== stops) throw stopped();
    const engine = new Engine(
      {
        onEvent: (name, data) => this.#onEvent(name, data),
        onEnd: (end) => this.#onEnd(engine, end),
      },
      this.#referenced,
    );
    this.#next = engine;
    this.#failure = undefined;
    try {
      await engine.open(this.#transport, this.#mode);
      if (this.#stops !== stops) throw stopped();
      if (engine.ended) throw engine.failure ?? stopped();
    } catch (error) {
      if (this.#next === engine) {
        this.#next = null;
        this.#past = engine.end();
        this.#past.catch(() => {});
      }
      throw error;
    }
    this.#next = null;
    this.#opening = null;
    this.#engine = engine;
  }

  #onEvent(name, data) {
    if (this.#events.has(name)) this.#emit(name, data);
  }

  #onEnd(engine, end) {
    if (this.#engine === engine) {
      this.#engine = null;
      this.#failure = end.error;
    }
    if (engine.announced) this.#emit('exit', end);
  }

  /** A listener that throws is the program's fault, uncaught as with any emitter; here all goes on. */
  #emit(name, data) {
    try {
      if (data === undefined) this.emit(name);
      else this.emit(name, data);
    } catch (error) {
      process.nextTick(() => {
        throw error;
      });
    }
  }
}

function stopped() {
  return new VpnError('aborted', 'start() was ended by stop() or close().');
}

module.exports = { Controller, kAnnounce, kConfigure, kDiscard, kIdle, kKnown, kOpen, kRequest };
