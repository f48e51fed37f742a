'use strict';

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { dirname, join } = require('node:path');
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

test('docs/limits.md is what the sources say', async () => {
  const { PAGE, describeLimits } = await import('../scripts/limits.mjs');
  const { page, findings } = describeLimits(ROOT);
  assert.deepEqual(findings, []);
  assert.equal(readFileSync(join(ROOT, PAGE), 'utf8'), page, 'run `node scripts/limits.mjs`');
});

/** What is made of these files and this list: the rows as cells, and the findings. */
async function describe(t, files, listed, noLimits = {}) {
  const { describeLimits } = await import('../scripts/limits.mjs');
  const root = mkdtempSync(join(tmpdir(), 'smartvpn-limits-'));
  t.after(() => rmSync(root, { recursive: true }));
  for (const [file, text] of Object.entries({ 'src/lib.rs': '', 'lib/index.js': '', ...files })) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), text);
  }
  const sections = [{ title: 'All', intro: 'Of them.', files: listed }];
  const { page, findings } = describeLimits(root, { sections, noLimits });
  const rows = Array.from(page.matchAll(/^\| (`.*) \|$/gm), ([, row]) => row.split(' | ').slice(0, 3));
  return { rows, findings };
}

test('limits are shown with value, unit and reason, however they are written', async (t) => {
  const files = {
    'src/room.rs': `
/// Packets that wait: [\`Room\`] has
/// no more.
pub(super) const PACKETS: usize = other::LEAST * 2 + (1 << 4);
/// Bytes of them.
#[doc(hidden)]
const BYTES: usize = 255 * 1024 - PACKETS + 14;
/// First, and at most.
const FIRST: Duration = Duration::from_millis(1500);
const LAST: Duration = Duration::from_micros(2500);
/// How long in one direction.
const WAIT: u64 = Duration::from_secs(FIRST.as_secs() + 59).as_nanos() as u64;
impl Room {
    /// What can be said.
    pub const SAID: RangeInclusive<u64> = 1_000..=0xffff;
    /// Of both kinds.
    const BOTH: (usize, usize) = (2, MANY as usize);
}
/// Without end.
const ROUNDS: Option<u32> = None;
/// Up to here.
const MANY: u64 = (1 << 53) - 1;
`,
    'src/other.rs': 'const LEAST: usize = u16::MAX as usize;\n',
    'src/third.rs': 'const LEAST: usize = 1;\n',
    'lib/wait.js': '/**\n * So long,\n * and no longer.\n */\nconst WAIT_MS = 2 ** 31 - 1;\n',
  };
  const { rows, findings } = await describe(t, files, {
    'src/room.rs': {
      PACKETS: 'packets',
      BYTES: 'bytes',
      FIRST: 'time',
      LAST: 'time',
      WAIT: 'time',
      'Room::SAID': 's',
      'Room::BOTH': 'kinds',
      ROUNDS: 'rounds',
      MANY: 'bytes',
    },
    'lib/wait.js': { WAIT_MS: 'ms' },
  });
  assert.deepEqual(findings, []);
  assert.deepEqual(rows, [
    ['`PACKETS`', '131,086 packets', 'Packets that wait: `Room` has no more.'],
    ['`BYTES`', '127 KiB', 'Bytes of them.'],
    ['`FIRST`', '1.5 s', 'First, and at most.'],
    ['`LAST`', '2.5 ms', 'First, and at most.'],
    ['`WAIT`', '60 s', 'How long in one direction.'],
    ['`Room::SAID`', '1,000 to 65,535 s', 'What can be said.'],
    ['`Room::BOTH`', '2 and 9,007,199,254,740,991 kinds', 'Of both kinds.'],
    ['`ROUNDS`', 'none', 'Without end.'],
    ['`MANY`', '2^53 − 1 bytes', 'Up to here.'],
    ['`WAIT_MS`', '2,147,483,647 ms', 'So long, and no longer.'],
  ]);
});

test('a limit that is gone, without a reason, or not listed is found, and test code is no matter', async (t) => {
  const files = {
    'src/room.rs': `
const BARE: u32 = 1;
const WAIT: Duration = Duration::from_secs(1);
const LINES_MAX: usize = 1;
const NAME_MAX: usize = 1;
#[cfg(test)]
mod tests {
    const SHORT: Duration = Duration::from_secs(1);
}
#[cfg(test)]
mod held;
`,
    'src/room/held.rs': 'const LONG: Duration = Duration::from_secs(9);\n',
  };
  const list = 'scripts/limits-list.mjs';
  const { findings } = await describe(
    t,
    files,
    { 'src/room.rs': { GONE: 'packets', BARE: 'packets' } },
    { 'src/room.rs': ['NAME_MAX', 'BARE'] },
  );
  assert.deepEqual(findings, [
    `src/room.rs: there is no GONE, which ${list} lists`,
    'src/room.rs: BARE has no comment that says why it is what it is',
    `src/room.rs: say in ${list} what unit WAIT has, or that it is no limit`,
    `src/room.rs: say in ${list} what unit LINES_MAX has, or that it is no limit`,
    `src/room.rs: ${list} says that BARE is no limit, and nothing would think so`,
  ]);
});

test('a limit whose value cannot be told is refused', async (t) => {
  const files = { 'src/room.rs': '/// Why.\nconst ROOM: usize = 8 * size_of::<Room>();\n' };
  await assert.rejects(describe(t, files, { 'src/room.rs': { ROOM: 'bytes' } }), {
    message: /^src\/room\.rs: ROOM = 8 \* size_of::<Room>\(\): /,
  });
});
