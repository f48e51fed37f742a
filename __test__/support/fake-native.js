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

const INVITE = {
  url: 'vpn://vpn.example.com/#c2VydmVy.dG9rZW4',
  id: 'i1',
  expiresAt: '2030-01-01T00:00:00Z',
};

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
    addClient: (_, client) => ({ ...client, online: false }),
    updateClient: (_, { id, changes }) => ({ id, ...changes, online: false }),
    removeClient: () => null,
    listRegisteredClients: () => [],
    createInvite: () => INVITE,
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
  /** What `authenticate` has answered. */
  verdicts = [];
  #onAnswer;
  #onEvent;
  #onAuthenticate;
  #answers;

  constructor(mode, onAnswer, onEvent, onAuthenticate, answers) {
    this.mode = mode;
    this.#onAnswer = onAnswer;
    this.#onEvent = onEvent;
    this.#onAuthenticate = onAuthenticate;
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

  /** Asks about a client; `null` takes the question back. */
  ask(id, request) {
    this.#onAuthenticate(id, request && JSON.stringify(request));
  }

  authenticated(id, answer, failure) {
    if (this.released) throw new Error('the engine has ended');
    this.verdicts.push({ id, answer: answer && JSON.parse(answer), failure });
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
 * @returns {{ engines: FakeEngine[], validations: unknown[], saved: unknown[], joined: unknown[] }} the engines in
 *   the order they were made; what was asked about configurations; the invites that were used
 */
function installFakeNative({
  answers = {},
  validate = () => null,
  loads = (path) => ({ config: JSON.parse(readFileSync(path, 'utf8')) }),
  saves = writePrivately,
  joins = () => ({ config: { serverUrl: 'wss://vpn.example.com/', ...KEYS } }),
  qr = (text) => `▀▀ ${text} ▄▄\n`,
  refuse,
} = {}) {
  const engines = [];
  const validations = [];
  const saved = [];
  const joined = [];
  replaceNative({
    NativeEngine: class extends FakeEngine {
      constructor(mode, onAnswer, onEvent, onAuthenticate) {
        if (refuse) throw refuse;
        super(mode, onAnswer, onEvent, onAuthenticate, answers);
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
    async join(url, name, file) {
      joined.push({ url, name, file });
      return JSON.stringify(joins(url, name, file));
    },
    qrCode: qr,
    version: () => '0.0.0-fake',
  });
  return { engines, validations, saved, joined };
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

module.exports = { INVITE, KEYS, SILENCE, fails, installFakeNative, later };
