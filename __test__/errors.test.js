'use strict';

const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { test } = require('node:test');
const { inspect } = require('node:util');

const { VpnError } = require('../index.js');
const { toVpnError } = require('../lib/error.js');
const { ROOT } = require('./support/child.js');

test('an error has a code, a message, and what else there is', () => {
  const cause = new Error('os error 1');
  const error = new VpnError('invalid-config', 'mtu must be 576–65535, not 7.', { path: 'mtu', cause });
  assert.ok(error instanceof Error);
  assert.equal(error.name, 'VpnError');
  assert.equal(error.cause, cause);
  assert.equal(`${error}`, 'VpnError: mtu must be 576–65535, not 7.');
  assert.match(error.stack, /^VpnError: mtu must be/);
  assert.deepEqual({ ...error }, { code: 'invalid-config', path: 'mtu' });
  assert.match(inspect(error), /code: 'invalid-config'/);
});

test('what there is not is no member', () => {
  const error = new VpnError('timeout', 'x');
  assert.equal('path' in error, false);
  assert.equal('cause' in error, false);
  assert.deepEqual(Object.keys(error), ['code']);
});

test('instanceof holds across copies of the package, and for nothing else', () => {
  const file = require.resolve('../lib/error.js');
  const original = require.cache[file];
  delete require.cache[file];
  const copy = require('../lib/error.js');
  require.cache[file] = original;
  assert.notEqual(copy.VpnError, VpnError);
  assert.ok(new copy.VpnError('timeout', 'x') instanceof VpnError);
  assert.ok(new VpnError('timeout', 'x') instanceof copy.VpnError);
  for (const value of [
    null,
    undefined,
    'VpnError',
    {},
    new Error('x'),
    { name: 'VpnError', code: 'timeout' },
  ]) {
    assert.equal(value instanceof VpnError, false);
  }
});

test('a subclass is its own kind', () => {
  class Mine extends VpnError {}
  assert.ok(new Mine('timeout', 'x') instanceof Mine);
  assert.ok(new Mine('timeout', 'x') instanceof VpnError);
  assert.equal(new VpnError('timeout', 'x') instanceof Mine, false);
});

test('the body of a failed answer becomes an error; null members are absent', () => {
  const error = toVpnError({ code: 'file-error', message: 'x', path: null, cause: null });
  assert.deepEqual(Object.keys(error), ['code']);
  assert.equal(error.cause, undefined);
});

test('the codes in index.d.ts are those of src/error.rs, in the same order', () => {
  const rust = readFileSync(join(ROOT, 'src/error.rs'), 'utf8');
  const codes = /^codes! \{\n([^]*?)^\}/m.exec(rust)[1];
  const types = readFileSync(join(ROOT, 'index.d.ts'), 'utf8');
  const union = /export type TVpnErrorCode =\n([^]*?);\n/.exec(types)[1];
  const inRust = Array.from(codes.matchAll(/= "([a-z-]+)"/g), ([, code]) => code);
  const inTypes = Array.from(union.matchAll(/'([a-z-]+)'/g), ([, code]) => code);
  assert.ok(inRust.length > 50);
  assert.deepEqual(inTypes, inRust);
});
