/** Configuration files, written and read by the real addon. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { inspect } from 'node:util';

const require = createRequire(import.meta.url);
const { VpnConfig } = require('../../index.js');
const { rejectsWith } = require('../support/assertions.js');

const KEY = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=';
const INDEX = require.resolve('../../index.js');

function makeFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), 'smartvpn-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

test('a file written is read as it was, and by its owner only', async (t) => {
  const file = join(makeFolder(t), 'server.json');
  const config = { listenAddr: '0.0.0.0:443', privateKey: KEY, dns: ['1.1.1.1'], stateDir: null };
  await VpnConfig.saveToFile(file, config);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(await VpnConfig.loadFromFile(file), config);
  assert.deepEqual(await VpnConfig.loadFromFile(pathToFileURL(file)), config);
});

test('writing replaces a file whole, with its mode, and leaves nothing beside it', async (t) => {
  const folder = makeFolder(t);
  const file = join(folder, 'c.json');
  writeFileSync(file, 'x'.repeat(10_000), { mode: 0o644 });
  await VpnConfig.saveToFile(file, { mtu: 1400 });
  assert.equal(readFileSync(file, 'utf8'), '{\n  "mtu": 1400\n}\n');
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(readdirSync(folder), ['c.json']);
});

test('writing through a symbolic link replaces what it points to', async (t) => {
  const folder = makeFolder(t);
  writeFileSync(join(folder, 'real.json'), '{}');
  symlinkSync('real.json', join(folder, 'link.json'));
  await VpnConfig.saveToFile(join(folder, 'link.json'), { mtu: 1400 });
  assert.deepEqual(JSON.parse(readFileSync(join(folder, 'real.json'), 'utf8')), { mtu: 1400 });
  assert.deepEqual(readdirSync(folder).toSorted(), ['link.json', 'real.json']);
});

test('a write that fails leaves the old file, and nothing beside it', async (t) => {
  const folder = makeFolder(t);
  const file = join(folder, 'folder.json');
  await rejectsWith(VpnConfig.saveToFile(join(folder, 'none', 'c.json'), {}), 'file-error', /os error 2/);
  symlinkSync(folder, file);
  await rejectsWith(VpnConfig.saveToFile(file, {}), 'file-error');
  assert.deepEqual(readdirSync(folder), ['folder.json']);
});

test('relative paths in a file start at its folder; PEM text and absolute ones stay', async (t) => {
  const folder = makeFolder(t);
  const file = join(folder, 'c.json');
  const pem = '-----BEGIN CERTIFICATE-----\n';
  const written = { tlsCert: 'tls/cert.pem', tlsKey: '/etc/key.pem', tlsCa: pem, stateDir: 'state' };
  writeFileSync(file, JSON.stringify(written));
  assert.deepEqual(await VpnConfig.loadFromFile(file), {
    tlsCert: join(folder, 'tls/cert.pem'),
    tlsKey: '/etc/key.pem',
    tlsCa: pem,
    stateDir: join(folder, 'state'),
  });
});

test('a file that cannot be read, or holds no JSON object, says why without quoting it', async (t) => {
  const folder = makeFolder(t);
  const file = join(folder, 'c.json');
  await rejectsWith(VpnConfig.loadFromFile(join(folder, 'none.json')), 'file-error', /No such file/);
  await rejectsWith(VpnConfig.loadFromFile(folder), 'file-error', /is not a file/);
  for (const [text, message] of [
    ['', /not valid JSON/],
    [`{\n  "privateKey": "${KEY}",\n}`, /not valid JSON \(line 3, column 1\)/],
    [KEY, /not valid JSON/],
    ['[]', /must hold a JSON object/],
    ['null', /must hold a JSON object/],
  ]) {
    writeFileSync(file, text, { mode: 0o600 });
    await assert.rejects(VpnConfig.loadFromFile(file), (error) => {
      assert.equal(error.code, 'invalid-config');
      assert.match(error.message, message);
      assert.ok(!inspect(error).includes(KEY.slice(0, 8)));
      return true;
    });
  }
});

test('the cause of a file error is the system’s', async (t) => {
  const file = join(makeFolder(t), 'c.json');
  await assert.rejects(VpnConfig.loadFromFile(file), (error) => error.cause.code === 'ENOENT');
});

test('a secret that others can read is refused, with the command that mends it', async (t) => {
  const file = join(makeFolder(t), "it's $(mine).json");
  for (const secret of [
    { privateKey: KEY },
    { tlsKey: '-----BEGIN PRIVATE KEY-----\n' },
    { token: 'x' },
    { proxy: 'http://me:secret@proxy.test:3128' },
  ]) {
    await VpnConfig.saveToFile(file, secret);
    for (const mode of [0o640, 0o604, 0o644]) {
      chmodSync(file, mode);
      const refusal = await VpnConfig.loadFromFile(file).catch((error) => error);
      assert.equal(refusal.code, 'file-error');
      const [, command] = /\(mode 06\d\d\): (chmod 600 .*)$/.exec(refusal.message);
      execFileSync('sh', ['-c', command]);
      assert.deepEqual(await VpnConfig.loadFromFile(file), secret);
    }
  }
});

const cannotMount = process.getuid() !== 0 && 'Needs root, to mount a small file system.';

describe('where nothing can be written', { skip: cannotMount }, () => {
  for (const [what, options] of [
    ['a full disk', 'size=16k,nr_inodes=10'],
    ['a read-only folder', 'ro'],
  ]) {
    test(`${what} leaves the old file whole`, (t) => {
      const folder = makeFolder(t);
      mkdirSync(join(folder, 'disk'));
      const text = execFileSync('unshare', ['--mount', process.execPath, '-e', SAVE_WHERE_NOTHING_CAN_BE], {
        env: { ...process.env, FOLDER: join(folder, 'disk'), OPTIONS: options, INDEX },
        encoding: 'utf8',
      });
      const { code, before, after, files } = JSON.parse(text);
      assert.equal(code, 'file-error');
      assert.equal(after, before);
      assert.deepEqual(files, ['c.json', ...(options === 'ro' ? [] : ['ballast'])].toSorted());
    });
  }
});

/** Run in a mount namespace of its own: fills the disk, or makes it read-only, between two writes. */
const SAVE_WHERE_NOTHING_CAN_BE = `
  const { execFileSync } = require('node:child_process');
  const { readFileSync, readdirSync, writeFileSync } = require('node:fs');
  const { VpnConfig } = require(process.env.INDEX);
  const { FOLDER, OPTIONS } = process.env;
  const mount = (...args) => execFileSync('mount', args);
  (async () => {
    const file = FOLDER + '/c.json';
    const readOnly = OPTIONS === 'ro';
    mount('-t', 'tmpfs', '-o', readOnly ? 'size=64k' : OPTIONS, 'smartvpn-test', FOLDER);
    await VpnConfig.saveToFile(file, { name: 'old' });
    const before = readFileSync(file, 'utf8');
    if (readOnly) mount('-o', 'remount,ro', FOLDER);
    else try { writeFileSync(FOLDER + '/ballast', Buffer.alloc(1 << 20)); } catch {}
    const { code } = await VpnConfig.saveToFile(file, { name: 'n'.repeat(9000) }).catch((error) => error) ?? {};
    console.log(JSON.stringify({ code, before, after: readFileSync(file, 'utf8'), files: readdirSync(FOLDER) }));
  })();
`;
