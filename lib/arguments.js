'use strict';

const { VpnError } = require('./error.js');

/** Deeper than any configuration; a cycle ends here. */
const MAX_DEPTH = 32;

/**
 * A deep copy of a configuration as the JSON that it means, so that the addon, a daemon and a file
 * are told the same, and what the caller does to the object later changes nothing.
 * Members that are `undefined` count as absent. What the members may be is Rust's to judge.
 *
 * @param {unknown} config
 * @param {string[]} [callbacks] the fields that hold functions, which are passed on as they are
 * @returns {Record<string, unknown>}
 * @throws {VpnError} `invalid-config` where JSON cannot say it
 */
function copyConfig(config, callbacks = []) {
  const refuse = (path, what) => {
    throw new VpnError('invalid-config', `${path || 'The configuration'} ${what}.`, { path });
  };
  if (!isObject(config)) refuse('', `must be an object, not ${describe(config)}`);
  const given = callbacks.filter((name) => config[name] !== undefined);
  for (const name of given) {
    if (typeof config[name] !== 'function') refuse(name, `must be a function, not ${describe(config[name])}`);
  }
  if (given.length === 0) return copyJson(config, '', 0, refuse);
  const functions = Object.fromEntries(given.map((name) => [name, config[name]]));
  const plain = Object.fromEntries(Object.entries(config).filter(([name]) => !given.includes(name)));
  return { ...copyJson(plain, '', 0, refuse), ...functions };
}

/**
 * A deep copy of an argument, as `copyConfig()` makes one.
 *
 * @param {unknown} value
 * @param {string} name what messages call it
 * @returns {Record<string, unknown>}
 * @throws {VpnError} `invalid-argument` where JSON cannot say it
 */
function copyObject(value, name) {
  if (!isObject(value)) invalid(name, 'an object', value);
  return copyJson(value, '', 0, (path, what) => {
    throw new VpnError('invalid-argument', `${path ? `${name}.${path}` : name} ${what}.`);
  });
}

/** A deep copy of what a program's function has answered; what it throws is for the log. */
function copyAnswer(answer) {
  if (!isObject(answer)) throw new Error(`the answer must be an object or null, not ${describe(answer)}`);
  return copyJson(answer, '', 0, (path, what) => {
    throw new Error(`${path || 'the answer'} ${what}`);
  });
}

/** @param {(path: string, what: string) => never} refuse */
function copyJson(original, path, depth, refuse) {
  const value = typeof original?.toJSON === 'function' ? original.toJSON() : original;
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return value;
    case 'number':
      return Number.isFinite(value) ? value : refuse(path, `must be a finite number, not ${value}`);
    case 'object':
      break;
    default:
      return refuse(path, `cannot be ${describe(value)}`);
  }
  if (value === null) return null;
  if (depth === MAX_DEPTH) return refuse(path, 'is nested too deeply, or contains itself');
  if (Array.isArray(value)) {
    return Array.from(value, (member, index) => copyJson(member, `${path}[${index}]`, depth + 1, refuse));
  }
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .map(([key, member]) => [key, copyJson(member, path ? `${path}.${key}` : key, depth + 1, refuse)]),
  );
}

/** @throws {VpnError} `invalid-argument` unless `value` is an object with none but the `known` keys */
function requireOptions(value, name, known) {
  if (!isObject(value)) invalid(name, 'an object', value);
  const unknown = Object.keys(value).find((key) => !known.includes(key));
  if (unknown !== undefined) {
    throw new VpnError(
      'invalid-argument',
      `${name} has no "${unknown}"; it takes ${known.map((key) => `"${key}"`).join(', ')}.`,
    );
  }
}

/** @throws {VpnError} `invalid-argument` unless `value` is a string with something in it */
function requireString(value, name) {
  if (typeof value !== 'string' || value === '') invalid(name, 'a non-empty string', value);
}

/** @throws {VpnError} `invalid-argument` unless `value` is an integer of at least `least` */
function requireInteger(value, name, least) {
  if (!Number.isSafeInteger(value) || value < least) invalid(name, `an integer of at least ${least}`, value);
}

/** @throws {VpnError} `invalid-argument` unless `value` is a boolean */
function requireBoolean(value, name) {
  if (typeof value !== 'boolean') invalid(name, 'a boolean', value);
}

/** @throws {VpnError} `invalid-argument` unless `value` is an `AbortSignal`, of this realm or another */
function requireAbortSignal(value, name) {
  const fits =
    isObject(value) && typeof value.aborted === 'boolean' && typeof value.addEventListener === 'function';
  if (!fits) invalid(name, 'an AbortSignal', value);
}

function invalid(name, expected, value) {
  throw new VpnError('invalid-argument', `${name} must be ${expected}, not ${describe(value)}.`);
}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What kind of value it is. Never the value itself, which may be a key put in the wrong place. */
function describe(value) {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return 'an array';
  if (value === '') return 'an empty string';
  if (typeof value === 'number') return `${value}`;
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

module.exports = {
  copyAnswer,
  copyConfig,
  copyObject,
  requireAbortSignal,
  requireBoolean,
  requireInteger,
  requireOptions,
  requireString,
};
