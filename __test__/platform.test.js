'use strict';

const assert = require('node:assert/strict');
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { after, before, test } = require('node:test');

const { usesMusl } = require('../lib/libc.js');
const { target } = require('../lib/platform.js');
const { PACKAGE, copyLibrary } = require('./support/copy.js');

const HERE = target();
const NAME = `smartvpn-${HERE}`;
const { version } = PACKAGE;

/** Files of an installed platform's package, beside the main one. */
const installed = (manifest) => ({
  [`../${NAME}/package.json`]: JSON.stringify({ name: NAME, version, ...manifest }),
  [`../${NAME}/smartvpn.${HERE}.node`]: 'addon',
  [`../${NAME}/bin/smartvpn_daemon`]: 'daemon',
});

/** Asserts that neither file is found, and that the message has these words. */
function assertUnsupported({ findAddon, findDaemon }, ...words) {
  for (const find of [findAddon, findDaemon]) {
    assert.throws(find, (error) => {
      assert.equal(error.name, 'VpnError');
      assert.equal(error.code, 'unsupported-platform');
      for (const word of words) assert.ok(error.message.includes(word), `${error.message}\nlacks ${word}`);
      return true;
    });
  }
}

/** Has this process say that it runs on another system. */
function pretend(t, platform, arch) {
  for (const [name, value] of Object.entries({ platform, arch })) {
    const actual = Object.getOwnPropertyDescriptor(process, name);
    Object.defineProperty(process, name, { ...actual, value });
    t.after(() => Object.defineProperty(process, name, actual));
  }
}

test('the target names system, processor and, on Linux, the C library', (t) => {
  const libc = process.report.getReport().header.glibcVersionRuntime ? 'gnu' : 'musl';
  const parts = [process.platform, process.arch, ...(process.platform === 'linux' ? [libc] : [])];
  assert.equal(HERE, parts.join('-'));
  pretend(t, 'darwin', 'arm64');
  assert.equal(target(), 'darwin-arm64');
});

test('addon and daemon are those of the installed package', (t) => {
  const { folder, load } = copyLibrary(t, { platforms: [HERE], files: installed() });
  const { findAddon, findDaemon } = load('lib/platform.js');
  assert.equal(findAddon(), join(folder, `../${NAME}/smartvpn.${HERE}.node`));
  assert.equal(findDaemon(), join(folder, `../${NAME}/bin/smartvpn_daemon`));
});

test('a package that is not installed is named, with what may have left it out and what mends it', (t) => {
  const { load } = copyLibrary(t, { platforms: [HERE] });
  const platform = load('lib/platform.js');
  assertUnsupported(
    platform,
    `${NAME}, which holds the addon and the daemon for this platform, is not installed`,
    '`--omit=optional`',
    'copied from another platform',
    `\`npm install --no-save ${NAME}@${version}\` mends it`,
  );
});

test('a package of another version is refused', (t) => {
  const { load } = copyLibrary(t, { platforms: [HERE], files: installed({ version: '0.0.1' }) });
  assertUnsupported(
    load('lib/platform.js'),
    `${NAME} is of version 0.0.1, and smartvpn of ${version}`,
    `\`npm install --no-save ${NAME}@${version}\``,
  );
});

test('a package that has lost its files says which', (t) => {
  const files = { [`../${NAME}/package.json`]: installed()[`../${NAME}/package.json`] };
  const { load } = copyLibrary(t, { platforms: [HERE], files });
  assertUnsupported(load('lib/platform.js'), NAME, 'is missing', 'install smartvpn anew');
});

test('a platform without a package is told which there are', (t) => {
  const { load } = copyLibrary(t, { platforms: ['linux-x64-gnu', 'linux-arm64-gnu'] });
  pretend(t, 'sunos', 'x64');
  assertUnsupported(
    load('lib/platform.js'),
    'There is no smartvpn for sunos-x64. It runs on linux-arm64-gnu, linux-x64-gnu.',
  );
});

test('in a checkout, they are what was built, or what to build', (t) => {
  const manifest = { [`npm/${HERE}/package.json`]: '{}' };
  const unbuilt = copyLibrary(t, { files: manifest });
  assertUnsupported(unbuilt.load('lib/platform.js'), 'has not been built yet: `npm run build`');

  const addon = `npm/${HERE}/smartvpn.${HERE}.node`;
  const built = copyLibrary(t, { files: { ...manifest, [addon]: 'addon' } });
  assert.equal(built.load('lib/platform.js').findAddon(), join(built.folder, addon));
});

test('a program that only talks to a daemon, or only wants the types, needs no addon', (t) => {
  const { load } = copyLibrary(t, { platforms: [HERE] });
  const { VpnClient, VpnServer } = load('index.js');
  assert.equal(new VpnClient().running, false);
  const transport = { transport: 'socket', socketPath: '/run/smartvpn.sock' };
  assert.equal(new VpnServer({ transport }).running, false);
});

let folder;
before(() => (folder = mkdtempSync(join(tmpdir(), 'smartvpn-elf-'))));
after(() => rmSync(folder, { recursive: true }));

/** A file with the header of a 64-bit program that names `loader`, after two headers that don't matter. */
function program(loader, { elfClass = 2 } = {}) {
  const path = Buffer.from(`${loader}\0`);
  const [headerBytes, entryBytes, entries] = [64, 56, 3];
  const header = Buffer.alloc(headerBytes + entries * entryBytes);
  header.write('\x7fELF', 'latin1');
  header.set([elfClass, 1], 4);
  header.writeBigUInt64LE(BigInt(headerBytes), 32);
  header.writeUInt16LE(entryBytes, 54);
  header.writeUInt16LE(entries, 56);
  const entry = header.subarray(headerBytes + 2 * entryBytes);
  entry.writeUInt32LE(3, 0);
  entry.writeBigUInt64LE(BigInt(header.length), 8);
  entry.writeBigUInt64LE(BigInt(path.length), 32);
  return Buffer.concat([header, path]);
}

for (const [what, bytes, musl] of [
  ['a program of musl on x64', program('/lib/ld-musl-x86_64.so.1'), true],
  ['a program of musl on arm64', program('/lib/ld-musl-aarch64.so.1'), true],
  ['a program of musl somewhere else', program('/nix/store/abc-musl/lib/ld-musl-x86_64.so.1'), true],
  ['a program of glibc', program('/lib64/ld-linux-x86-64.so.2'), false],
  ['a program of glibc in a folder of that name', program('/ld-musl-no/ld-linux-x86-64.so.2'), false],
  ['a 32-bit program', program('/lib/ld-musl-armhf.so.1', { elfClass: 1 }), false],
  ['a program that is cut off', program('/lib/ld-musl-x86_64.so.1').subarray(0, 150), false],
  ['a script', Buffer.from('#!/lib/ld-musl-x86_64.so.1\n'.repeat(9)), false],
  ['an empty file', Buffer.alloc(0), false],
]) {
  test(`${what} ${musl ? 'uses' : 'does not use'} musl`, () => {
    const file = join(folder, 'program');
    writeFileSync(file, bytes);
    assert.equal(usesMusl(file), musl);
  });
}

test('a program that cannot be read counts as one of glibc', () => {
  assert.equal(usesMusl(join(folder, 'nowhere')), false);
});
