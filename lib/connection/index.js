'use strict';

const { requireBoolean, requireInteger, requireOptions, requireString } = require('../arguments.js');
const { VpnError } = require('../error.js');
const { InProcessConnection } = require('./inprocess.js');

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
 * Connects to an engine: makes one, spawns a daemon, or reaches a running one.
 *
 * A connection has `request(method, params)`, `end()` and `undo(timeoutMs)`, and tells `observer`
 * what happens. What the program calls does not depend on which it is.
 *
 * @param {ReturnType<typeof parseTransport>} options
 * @param {'client' | 'server'} mode
 * @param {import('./inprocess.js').ConnectionObserver} observer
 * @returns {Promise<InProcessConnection>}
 */
async function openConnection(options, mode, observer) {
  if (options.transport === 'inprocess') return new InProcessConnection(mode, observer);
  throw new VpnError(
    'unsupported-method',
    `The transport "${options.transport}" comes with a later version. ` +
      'Leave the option out: the engine then runs in this process.',
  );
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

module.exports = { openConnection, parseTransport };
