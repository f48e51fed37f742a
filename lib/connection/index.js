'use strict';

const { requireBoolean, requireInteger, requireOptions, requireString } = require('../arguments.js');
const { VpnError } = require('../error.js');
const { InProcessConnection } = require('./inprocess.js');
const { SocketConnection } = require('./socket.js');
const { StdioConnection } = require('./stdio.js');

const DEFAULT_TRANSPORT = { transport: 'inprocess' };

/** The options that each transport takes, and what they must be. */
const TRANSPORTS = {
  inprocess: {},
  stdio: { daemonPath: requireString },
  socket: {
    socketPath: requireString,
    autoReconnect: requireBoolean,
    reconnectBaseDelayMs: atLeast(1),
    reconnectMaxDelayMs: atLeast(1),
    maxReconnectAttempts: atLeast(0),
  },
};

/**
 * @param {unknown} options a `TVpnTransportOptions`, or `undefined` for the default
 * @returns {{ transport: 'inprocess' | 'stdio' | 'socket' } & Record<string, unknown>}
 * @throws {VpnError} `invalid-argument`
 */
function parseTransport(options) {
  if (options === undefined) return DEFAULT_TRANSPORT;
  requireOptions(options, 'transport', ['transport', ...knownOptions(options)]);
  const checks = TRANSPORTS[options.transport];
  for (const [name, check] of Object.entries(checks)) {
    if (options[name] !== undefined) check(options[name], `transport.${name}`);
  }
  if (options.transport === 'socket') requireString(options.socketPath, 'transport.socketPath');
  return { ...options };
}

/**
 * The way to an engine: one of its own in this process, a daemon to spawn, or one that runs.
 *
 * @param {ReturnType<typeof parseTransport>} options
 * @param {'client' | 'server'} mode
 * @param {import('./connection.js').ConnectionObserver} observer
 * @returns {import('./connection.js').Connection} not opened yet
 * @throws {VpnError} when what it needs is not on this machine
 */
function makeConnection(options, mode, observer) {
  switch (options.transport) {
    case 'stdio':
      return new StdioConnection(options, mode, observer);
    case 'socket':
      return new SocketConnection(options, mode, observer);
    default:
      return new InProcessConnection(mode, observer);
  }
}

function knownOptions(options) {
  const checks = Object.hasOwn(TRANSPORTS, options?.transport) ? TRANSPORTS[options.transport] : undefined;
  if (!checks) {
    const names = Object.keys(TRANSPORTS).map((name) => `{ transport: '${name}' }`);
    throw new VpnError('invalid-argument', `transport must be one of ${names.join(', ')}.`);
  }
  return Object.keys(checks);
}

function atLeast(least) {
  return (value, name) => requireInteger(value, name, least);
}

module.exports = { makeConnection, parseTransport };
