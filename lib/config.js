'use strict';

const { resolve } = require('node:path');
const { fileURLToPath } = require('node:url');

const { copyConfig } = require('./arguments.js');
const { VpnError, fromException, toVpnError } = require('./error.js');
const { loadNative } = require('./native.js');

/** Checks, reads and writes configurations: in Rust, for all ways in alike. */
class VpnConfig {
  static validateClientConfig(config) {
    validate('client', config);
  }

  static validateServerConfig(config) {
    validate('server', config);
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

function validate(mode, config) {
  const fault = loadNative().validateConfig(mode, JSON.stringify(copyConfig(config)));
  if (fault !== null) throw toVpnError(JSON.parse(fault));
}

function toFilePath(path) {
  if (path instanceof URL && path.protocol === 'file:') return fileURLToPath(path);
  if (typeof path === 'string' && path !== '') return resolve(path);
  throw new VpnError('invalid-argument', 'path must be a string or a file: URL.');
}

module.exports = { VpnConfig };
