'use strict';

const { posix } = require('node:path');

const { requireOptions, requireString } = require('../arguments.js');
const { VpnError } = require('../error.js');

const MODES = ['client', 'server'];

/** What systemd and POSIX take for the name of a user; 31 characters are what utmp holds. */
const USER = /^[A-Za-z_][A-Za-z0-9_-]{0,30}$/;

/** What the kernel takes for a socket's path, in bytes: `sun_path` without its final NUL. */
const SOCKET_PATH_LIMIT = 107;

/** Control characters and what is no character at all: no unit file and no plist can say them. */
const UNSPEAKABLE = /[\p{Cc}\p{Cs}\p{Noncharacter_Code_Point}\u2028\u2029]/u;

/** systemd takes no such executable, and these have a meaning in its lists of directories. */
const AWKWARD = /["'\\$:]/;

/**
 * @typedef {object} ServiceOptions
 * @property {string} binaryPath
 * @property {string} socketPath
 * @property {'client' | 'server'} mode
 * @property {string} [configPath]
 * @property {string} [user]
 */

/**
 * @param {unknown} options
 * @returns {ServiceOptions} with normalised paths
 * @throws {VpnError} `invalid-argument`
 */
function parseServiceOptions(options) {
  requireOptions(options, 'options', ['binaryPath', 'socketPath', 'mode', 'configPath', 'user']);
  const { mode, user, configPath } = options;
  if (!MODES.includes(mode)) refuse('mode', `"client" or "server"`);
  if (user !== undefined && !(typeof user === 'string' && USER.test(user))) {
    refuse('user', "a user's name: a letter or _, then at most 30 of A-Z a-z 0-9 _ -");
  }
  return {
    mode,
    user,
    binaryPath: plainPath(options.binaryPath, 'binaryPath'),
    socketPath: socketPath(options.socketPath),
    configPath: configPath === undefined ? undefined : absolutePath(configPath, 'configPath'),
  };
}

function socketPath(value) {
  const path = plainPath(value, 'socketPath');
  if (Buffer.byteLength(path) > SOCKET_PATH_LIMIT) {
    refuse('socketPath', `at most ${SOCKET_PATH_LIMIT} bytes long, as every Unix socket's path`);
  }
  return path;
}

function plainPath(value, name) {
  const path = absolutePath(value, name);
  if (AWKWARD.test(path)) refuse(name, 'a path without quotes, backslashes, colons and dollar signs');
  return path;
}

function absolutePath(value, name) {
  requireString(value, `options.${name}`);
  if (!posix.isAbsolute(value)) refuse(name, 'an absolute path');
  if (value.endsWith('/')) refuse(name, 'the path of a file, not of a folder');
  if (UNSPEAKABLE.test(value)) refuse(name, 'a path without line breaks and other control characters');
  return posix.normalize(value).replace(/^\/+/, '/');
}

function refuse(name, expected) {
  throw new VpnError('invalid-argument', `options.${name} must be ${expected}.`);
}

module.exports = { parseServiceOptions };
