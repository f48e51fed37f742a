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
const kOpen = Symbol('kOpen');
const kRequest = Symbol('kRequest');

/**
 * What `VpnClient` and `VpnServer` have in common: an engine that is started and ended, is asked,
 * and tells.
 */
class Controller extends EventEmitter {
  #mode;
  #events;
  #transport;
  #config;
  #referenced = true;
  /** @type {Engine | null} the one that runs */
  #engine = null;
  /** @type {Promise<void> | null} a start under way */
  #opening = null;
  /** Settled when every engine before has ended, and what it held is free again. */
  #past = Promise.resolve();
  #stops = 0;

  /**
   * @param {'client' | 'server'} mode
   * @param {string[]} events the names that are passed on
   * @param {unknown} options
   */
  constructor(mode, events, options = {}) {
    requireOptions(options, 'options', ['transport', 'config']);
    super();
    this.#mode = mode;
    this.#events = new Set(events);
    this.#transport = parseTransport(options.transport);
    if (options.config !== undefined) this.#config = copyConfig(options.config);
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
    if (this.#opening) this.#past = this.#opening.catch(() => {});
    else if (this.#engine) this.#past = this.#engine.end();
    this.#opening = null;
    this.#engine = null;
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
    if (!this.#engine) throw new VpnError('aborted', 'start() was ended by stop() or close().');
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

  /** The configuration in force: `config` replaces the one before, whole. */
  [kConfigure](config) {
    if (config !== undefined) this.#config = copyConfig(config);
    return this.#config;
  }

  /**
   * @param {string} method
   * @param {Record<string, unknown>} [params]
   */
  async [kRequest](method, params) {
    if (!this.#engine) {
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
    const assertWanted = () => {
      if (this.#stops !== stops) throw new VpnError('aborted', 'start() was ended by stop() or close().');
    };
    await this.#past.catch(() => {});
    assertWanted();
    const engine = new Engine(
      {
        onEvent: (name, data) => this.#onEvent(name, data),
        onEnd: (end) => this.#onEnd(engine, end),
      },
      this.#referenced,
    );
    await engine.open(this.#transport, this.#mode);
    try {
      assertWanted();
    } catch (error) {
      await engine.end();
      throw error;
    }
    this.#opening = null;
    this.#engine = engine;
  }

  #onEvent(name, data) {
    if (this.#events.has(name)) this.#emit(name, data);
  }

  #onEnd(engine, end) {
    if (this.#engine === engine) this.#engine = null;
    if (engine.announced) this.#emit('exit', end);
  }

  /** A listener that throws is the program's fault, uncaught as with any emitter; here all goes on. */
  #emit(name, data) {
    try {
      this.emit(name, data);
    } catch (error) {
      process.nextTick(() => {
        throw error;
      });
    }
  }
}

module.exports = { Controller, kAnnounce, kConfigure, kDiscard, kIdle, kOpen, kRequest };
