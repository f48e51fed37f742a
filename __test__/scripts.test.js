'use strict';

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { test } = require('node:test');

const { ROOT } = require('./support/child.js');

test('what cargo test prints is counted', async () => {
  const { readCargoTests } = await import('../scripts/cargo-results.mjs');
  const output = `
running 6 tests
test tests::slow ... ignored, long: takes minutes
test tests::root ... ignored, needs root
test tests::unexplained ... ignored
test tests::tun ... ok
test tests::fine ... ok
test tests::broken ... FAILED

successes:

---- tests::fine stdout ----
nothing is skipped: all is well

---- tests::tun stdout ----
about to open it
skipped: /dev/net/tun: No such file or directory


successes:
    tests::fine
    tests::tun

failures:

---- tests::broken stdout ----
skipped: not really

failures:
    tests::broken

test result: FAILED. 2 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.14s

running 1 test
test tests::tun ... ok

successes:

successes:
    tests::tun

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
`;
  assert.deepEqual(readCargoTests(output), {
    passed: 2,
    failed: ['tests::broken'],
    skipped: [
      { name: 'tests::root', reason: 'needs root' },
      { name: 'tests::tun', reason: '/dev/net/tun: No such file or directory' },
    ],
  });
});

test('what node --test reports is counted', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'smartvpn-tally-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const files = {
    'some.test.mjs': `
      import { describe, it, test } from 'node:test';
      describe('suite', () => {
        it('passes', () => {});
        it('fails', () => { throw new Error('on purpose') });
        it('is skipped', { skip: 'no root' }, () => {});
        it.todo('is to be done');
      });
      describe('skipped suite', { skip: 'no network' }, () => it('is not seen', () => {}));
      test('finds that it cannot run', (t) => t.skip('no program'));`,
    'broken.test.mjs': "throw new Error('on purpose');",
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const { stdout } = spawnSync(
    process.execPath,
    ['--test', `--test-reporter=${join(ROOT, 'scripts/test-tally.mjs')}`, ...Object.keys(files)],
    { cwd: folder, env, encoding: 'utf8' },
  );
  const told = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
    .map(({ verdict, name, reason }) => [verdict, name, verdict === 'skipped' ? reason : undefined]);
  assert.deepEqual(
    told.filter(([, name]) => !name.includes('broken')),
    [
      ['passed', 'passes', undefined],
      ['failed', 'fails', undefined],
      ['skipped', 'is skipped', 'no root'],
      ['skipped', 'is to be done', 'No reason is given.'],
      ['skipped', 'skipped suite', 'no network'],
      ['skipped', 'finds that it cannot run', 'no program'],
    ],
  );
  assert.deepEqual(
    told.filter(([, name]) => name.includes('broken')).map(([verdict]) => verdict),
    ['failed'],
  );
});
