'use strict';

const { requireAbortSignal, requireOptions, requireString } = require('./arguments.js');
const { toFilePath } = require('./config.js');
const { Controller, kAnnounce, kConfigure, kIdle, kKnown, kOpen, kRequest } = require('./controller.js');
const { VpnError, fromException, toVpnError } = require('./error.js');
const { loadNative } = require('./native.js');

const EVENTS = ['status', 'quality', 'log', 'lost', 'reconnected'];

/** A VPN client: a tunnel to one server. */
class VpnClient extends Controller {
  constructor(options) {
    super('client', EVENTS, options);
  }

  static async join(url, options = {}) {
    requireString(url, 'url');
    requireOptions(options, 'options', ['configPath', 'name']);
    const { configPath, name } = options;
    if (name !== undefined) requireString(name, 'options.name');
    const file = configPath === undefined ? undefined : toFilePath(configPath, 'options.configPath');
    let answer;
    try {
      answer = await loadNative().join(url, name, file);
    } catch (error) {
      throw fromException(error, 'The invite was not used');
    }
    const { config, error } = JSON.parse(answer);
    if (error) throw toVpnError(error);
    return config;
  }

  async start() {
    await this[kOpen]();
    this[kAnnounce]();
    return true;
  }

  async connect(config, options = {}) {
    requireOptions(options, 'options', ['signal']);
    const { signal } = options;
    if (signal !== undefined) requireAbortSignal(signal, 'options.signal');
    const settings = this[kConfigure](config);
    if (settings === undefined) {
      throw new VpnError(
        'invalid-config',
        'There is no configuration: give one to connect() or to the constructor.',
        { path: '' },
      );
    }
    return signal ? this.#connectUntil(signal, settings) : this[kRequest]('connect', settings);
  }

  async disconnect() {
    await this[kRequest]('disconnect');
  }

  getStatus() {
    return this[kRequest]('getStatus');
  }

  getStatistics() {
    return this[kRequest]('getStatistics');
  }

  getConnectionQuality() {
    return this[kRequest]('getConnectionQuality');
  }

  getMtuInfo() {
    return this[kRequest]('getMtuInfo');
  }

  async #connectUntil(signal, settings) {
    const makeError = () =>
      new VpnError('aborted', 'connect() was ended by its signal.', { cause: signal.reason });
    if (signal.aborted) throw makeError();

    // A tunnel that is up already is not this call's to end.
    if (!this[kKnown]) await this.getStatus();
    if (signal.aborted) throw makeError();
    const ours = this[kIdle];
    let aborted = false;
    let disconnected;
    const onAbort = () => {
      aborted = true;
      if (ours) disconnected = this.#disconnectQuietly();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      const addresses = await this[kRequest]('connect', settings);
      if (!aborted) return addresses;
      disconnected ??= this.#disconnectQuietly();
    } catch (error) {
      if (!aborted) throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
    await disconnected;
    throw makeError();
  }

  async #disconnectQuietly() {
    try {
      await this.disconnect();
    } catch {
      // Whatever ended the engine has ended the tunnel too.
    }
  }
}

module.exports = { VpnClient };
