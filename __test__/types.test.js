'use strict';

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const { existsSync, readFileSync } = require('node:fs');
const { join } = require('node:path');
const { test } = require('node:test');

const smartvpn = require('../index.js');
const { ROOT } = require('./support/child.js');

const TYPES = readFileSync(join(ROOT, 'index.d.ts'), 'utf8');
const TSC = join(ROOT, 'node_modules/typescript/bin/tsc');

test(
  'index.d.ts and the programs in types/ compile, and the mistakes do not',
  { skip: existsSync(TSC) ? false : 'TypeScript is not installed: run npm ci' },
  () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [TSC, '-p', ROOT], { encoding: 'utf8' });
    assert.equal(status, 0, stdout + stderr);
  },
);

test('index.d.ts exports what index.js does', () => {
  const declared = Array.from(TYPES.matchAll(/^export (?:class|const|function) (\w+)/gm), ([, name]) => name);
  assert.deepEqual(declared.toSorted(), Object.keys(smartvpn).toSorted());
});

test('import takes the same names as require()', async () => {
  const { default: whole, ...names } = await import('smartvpn');
  delete names['module.exports'];
  assert.equal(whole, smartvpn);
  assert.deepEqual(Object.keys(names).toSorted(), Object.keys(smartvpn).toSorted());
});

for (const [name, constructor] of Object.entries(smartvpn)) {
  test(`index.d.ts declares the members that ${name} has`, () => {
    const inherited = Object.getPrototypeOf(constructor);
    const actual = [
      ...membersOf(constructor.prototype),
      ...membersOf(constructor),
      ...(inherited.name === 'Controller' ? membersOf(inherited.prototype) : []),
    ];
    const declared = [
      ...methodsIn(declarationOf(`export class ${name}`)),
      ...(inherited.name === 'Controller'
        ? methodsIn(declarationOf('declare abstract class VpnController'))
        : []),
    ];
    assert.deepEqual(declared.toSorted(), actual.toSorted());
  });
}

/** The public methods and accessors; fields of instances are not seen. */
function membersOf(object) {
  const own = Reflect.ownKeys(object)
    .filter((key) => typeof key === 'string' || key === Symbol.asyncDispose)
    .map((key) => (typeof key === 'string' ? key : '[Symbol.asyncDispose]'));
  return own.filter((key) => !['constructor', 'prototype', 'length', 'name'].includes(key));
}

function declarationOf(start) {
  const from = TYPES.indexOf(start);
  assert.notEqual(from, -1, start);
  return TYPES.slice(from, TYPES.indexOf('\n}', from));
}

/** What a class's declaration says of its prototype and itself: not what an emitter has already. */
function methodsIn(declaration) {
  const names = Array.from(
    declaration.matchAll(/^ {2}(?:static )?(\w+|\[[\w.]+\])(?:<[^>]*>)?\(|^ {2}readonly (running):/gm),
    ([, method, field]) => method ?? field,
  );
  const emitter = Object.getPrototypeOf(smartvpn.VpnClient.prototype.__proto__);
  return names.filter((name) => name !== 'constructor' && !(name in emitter));
}
