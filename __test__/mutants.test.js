'use strict';

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const { test } = require('node:test');

const { ROOT } = require('./support/child.js');

const SOURCE = 'the sources that a mutant is made of';

test(`every mutant still fits ${SOURCE}`, async (t) => {
  const { mutants } = await import('../scripts/mutants.mjs');
  const all = mutants();
  assert.ok(all.length >= 10);
  for (const { name, patch, breaks, story, says } of all) {
    assert.ok(breaks && story && says, name);
    const { error, status, stderr } = spawnSync('git', ['apply', '--check', '--verbose', patch], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    if (error?.code === 'ENOENT') return t.skip('git is not here');
    assert.equal(status, 0, `${name}: ${stderr}`);
    // git leaves out in silence what lies outside of its folder.
    assert.match(stderr, /^Checking patch src\//m, name);
  }
});

test('a mutant counts as found by its own story and its own words alone', async () => {
  const { judge } = await import('../scripts/mutants.mjs');
  const mutant = { story: 'a_town', says: 'a timer in the past' };
  const found = `
running 1 test
thread '<unnamed>' (7) panicked at tests/simulation/host.rs:1:1:
a timer in the past
SEED=42 cargo test --test simulation -- --exact a_town
test a_town ... FAILED
error: test failed, to rerun pass \`--test simulation\`
`;
  assert.deepEqual(judge(mutant, found), { seed: '42' });
  assert.match(judge(mutant, 'running 1 test\ntest a_town ... ok').failure, /nothing found it/);
  assert.match(judge(mutant, 'error[E0308]: mismatched types').failure, /does not compile/);
  assert.match(judge({ ...mutant, says: 'two owners' }, found).failure, /nothing said "two owners"/);
  assert.match(judge({ ...mutant, story: 'good_weather' }, found).failure, /nothing found it/);
});
