'use strict';

/**
 * An addon for tests of the JavaScript face: it has the real one's interface, records what it is
 * asked, and answers as a test says.
 *
 * Like the real one's, its callbacks hold no event loop: they come from timers that are unreferenced.
 */

const { readFileSync, writeFileSync } = require('node:fs');

const { replaceNative } = require('../../lib/native.js');

const KEYS = { publicKey: 'cHVibGlj', privateKey: 'cHJpdmF0ZQ==' };

/** What each method answers unless a test says otherwise; a function sees the engine and the params. */
const ANSWERS = {
  client: {
    connect: connects({ assignedIp: '10.8.0.2' }),
    disconnect: (engine) => engine.status('disconnected'),
    getStatus: (engine) => ({ state: engine.state }),
    getStatistics: () => ({ bytesSent: 1 }),
    getConnectionQuality: () => ({ srttMs: 1 }),
    getMtuInfo: () => ({ tunMtu: 1420 }),
    shutdown: () => null,
  },
  server: {
    start: connects(null),
    stopServer: (engine) => engine.status('disconnected'),
    getStatus: (engine) => ({ state: engine.state }),
    getStatistics: () => ({ activeClients: 0 }),
    listClients: () => [],
    disconnectClient: () => null,
    generateKeypair: () => KEYS,
    setClientRateLimit: () => null,
    removeClientRateLimit: () => null,
    getClientTelemetry: (_, { id }) => ({ clientId: id }),
    shutdown: () => null,
  },
};

/** Never answers. */
const SILENCE = Symbol('silence');

class FakeEngine {
  state = 'disconnected';
  requests = [];
  undone = [];
  released = false;
  #onAnswer;
  #onEvent;
  #answers;

  constructor(mode, onAnswer, onEvent, answers) {
    this.mode = mode;
    this.#onAnswer = onAnswer;
    this.#onEvent = onEvent;
    this.#answers = { ...ANSWERS[mode], ...answers };
  }

  request(id, method, params) {
    params = JSON.parse(params);
    this.requests.push({ id, method, params });
    const answer = this.#answers[method];
    later(() => {
      try {
        const body = typeof answer === 'function' ? answer(this, params, id) : answer;
        if (body !== SILENCE) this.answer(id, true, body ?? null);
      } catch (error) {
        this.answer(id, false, error.body);
      }
    });
  }

  undo(timeoutMs) {
    this.undone.push(timeoutMs);
    return true;
  }

  release() {
    this.released = true;
  }

  answer(id, success, body) {
    this.#onAnswer(id, success, JSON.stringify(body));
  }

  event(name, data) {
    this.#onEvent(name, JSON.stringify(data));
  }

  status(state) {
    this.state = state;
    this.event('status', { state });
  }

  /** The methods asked so far. */
  get methods() {
    return this.requests.map(({ method }) => method);
  }
}

/**
 * Puts a fake addon in place, whose engines answer as `answers` says.
 *
 * @returns {{ engines: FakeEngine[], validations: unknown[], saved: unknown[] }} the engines in the order they
 *   were made; what was asked about configurations
 */
function installFakeNative({
  answers = {},
  validate = () => null,
  loads = (path) => ({ config: JSON.parse(readFileSync(path, 'utf8')) }),
  saves = writePrivately,
  refuse,
} = {}) {
  const engines = [];
  const validations = [];
  const saved = [];
  replaceNative({
    NativeEngine: class extends FakeEngine {
      constructor(mode, onAnswer, onEvent) {
        if (refuse) throw refuse;
        super(mode, onAnswer, onEvent, answers);
        engines.push(this);
      }
    },
    validateConfig(mode, text) {
      const config = JSON.parse(text);
      validations.push({ mode, config });
      const fault = validate(mode, config);
      return fault && JSON.stringify(fault);
    },
    loadConfig: async (path) => JSON.stringify(loads(path)),
    async saveConfig(path, text) {
      saved.push({ path, config: JSON.parse(text) });
      const fault = saves(path, text);
      return fault && JSON.stringify(fault);
    },
    version: () => '0.0.0-fake',
  });
  return { engines, validations, saved };
}

function writePrivately(path, text) {
  writeFileSync(path, text, { mode: 0o600 });
  return null;
}

function fails(code, message = code, details = {}) {
  throw Object.assign(new Error(message), { body: { code, message, ...details } });
}

function connects(result) {
  return (engine) => {
    if (engine.state === 'connected')
      fails(engine.mode === 'client' ? 'already-connected' : 'already-running');
    engine.status('connecting');
    engine.status('connected');
    return result;
  };
}

function later(callback) {
  setTimeout(callback, 5).unref();
}

module.exports = { KEYS, SILENCE, fails, installFakeNative, later };
