'use strict';

const { resolve } = require('node:path');
const { fileURLToPath } = require('node:url');

const { copyConfig } = require('./arguments.js');
const { VpnError, fromException, toVpnError } = require('./error.js');
const { loadNative } = require('./native.js');

/** The fields of a server's configuration that hold functions, for which the engine is told `true`. */
const SERVER_CALLBACKS = ['authenticate'];

/** Checks, reads and writes configurations: in Rust, for all ways in alike. */
class VpnConfig {
  static validateClientConfig(config) {
    validate('client', config);
  }

  static validateServerConfig(config) {
    validate('server', config, SERVER_CALLBACKS);
  }

  static async loadFromFile(path) {
    const file = toFilePath(path);
    const { config, error } = JSON.parse(await ask('loadConfig', file));
    if (error) throw toVpnError(error);
    return config;
  }

  static async saveToFile(path, config) {
    const text = JSON.stringify(copyConfig(config));
    const fault = await ask('saveConfig', toFilePath(path), text);
    if (fault !== null) throw toVpnError(JSON.parse(fault));
  }
}

async function ask(method, ...args) {
  const native = loadNative();
  try {
    return await native[method](...args);
  } catch (error) {
    throw fromException(error, 'The configuration file was neither read nor written');
  }
}

function validate(mode, config, callbacks) {
  const text = JSON.stringify(copyConfig(config, callbacks), callbacksAsTrue);
  const fault = loadNative().validateConfig(mode, text);
  if (fault !== null) throw toVpnError(JSON.parse(fault));
}

/** For `JSON.stringify()`: a copied configuration has no other functions. */
function callbacksAsTrue(_name, value) {
  return typeof value === 'function' ? true : value;
}

function toFilePath(path, name = 'path') {
  if (path instanceof URL && path.protocol === 'file:') return fileURLToPath(path);
  if (typeof path === 'string' && path !== '') return resolve(path);
  throw new VpnError('invalid-argument', `${name} must be a string or a file: URL.`);
}

module.exports = { SERVER_CALLBACKS, VpnConfig, callbacksAsTrue, toFilePath };
