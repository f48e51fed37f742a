'use strict';

const { VpnConfig } = require('../config.js');
const { VpnError } = require('../error.js');

const OWN_FIELDS = { client: 'serverUrl', server: 'listenAddr' };

/**
 * Reads a configuration and finds out whose it is.
 *
 * @param {string} file
 * @returns {Promise<{ mode: 'client' | 'server', config: Record<string, any> }>}
 * @throws {VpnError} `file-error`, `invalid-config`
 */
async function loadConfig(file) {
  const config = await VpnConfig.loadFromFile(file);
  const [mode, other] = Object.keys(OWN_FIELDS).filter((name) => Object.hasOwn(config, OWN_FIELDS[name]));
  if (mode && !other) return { mode, config };
  const has = mode ? 'both' : 'neither';
  throw new VpnError(
    'invalid-config',
    `${file} has ${has} serverUrl, which makes it a client's, ${mode ? 'and' : 'nor'} listenAddr, which makes it a server's.`,
    { path: '' },
  );
}

/** @throws {VpnError} `invalid-config` */
function validateConfig(mode, config) {
  if (mode === 'client') VpnConfig.validateClientConfig(config);
  else VpnConfig.validateServerConfig(config);
}

module.exports = { loadConfig, validateConfig };
