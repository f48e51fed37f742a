'use strict';

const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const { existsSync, readFileSync, readdirSync } = require('node:fs');
const { join } = require('node:path');
const { test } = require('node:test');

const { ROOT } = require('./support/child.js');

const readJson = (file) => JSON.parse(readFileSync(join(ROOT, file), 'utf8'));
const PACKAGE = readJson('package.json');

/** The files of the tarball that `npm pack` makes of a folder. */
function packed(folder) {
  const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: join(ROOT, folder),
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const [{ files }] = Object.values(JSON.parse(output));
  return files.map(({ path }) => path).toSorted();
}

test('the package holds what a program needs, and nothing of the workshop', () => {
  const built = ['binding.d.ts', 'binding.js', 'smartvpn.linux-x64-gnu.node'];
  const library = readdirSync(join(ROOT, 'lib'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(ROOT.length + 1));
  const expected = [
    'CHANGELOG.md',
    'LICENSE',
    'README.md',
    'bin/smartvpn.js',
    'index.d.ts',
    'index.js',
    'package.json',
    ...library,
    ...built.filter((file) => existsSync(join(ROOT, file))),
  ];
  assert.deepEqual(packed('.'), expected.toSorted());
});

test('the platform package holds addon and daemon, and nothing else', () => {
  const folder = 'npm/linux-x64-gnu';
  const { files, main } = readJson(`${folder}/package.json`);
  assert.deepEqual(files, [main, 'bin/smartvpn_daemon']);
  const built = files.filter((file) => existsSync(join(ROOT, folder, file)));
  assert.deepEqual(packed(folder), ['README.md', 'package.json', ...built].toSorted());
});

test('nothing runs at installation, and nothing else is installed', () => {
  for (const file of ['package.json', 'npm/linux-x64-gnu/package.json']) {
    const { scripts = {}, private: isPrivate, ...fields } = readJson(file);
    const automatic = Object.keys(scripts).filter((name) =>
      /^(pre|post)?(install|prepare|publish|pack)/.test(name),
    );
    assert.deepEqual(automatic, [], file);
    for (const kind of ['dependencies', 'optionalDependencies', 'peerDependencies', 'bundleDependencies']) {
      assert.equal(fields[kind], undefined, `${kind} of ${file}`);
    }
    assert.equal(isPrivate, undefined);
  }
});

test('the versions are one', () => {
  const [, cargo] = /^version = "(.+)"$/m.exec(readFileSync(join(ROOT, 'Cargo.toml'), 'utf8'));
  assert.equal(cargo, PACKAGE.version);
  assert.equal(readJson('package-lock.json').version, PACKAGE.version);
  for (const platform of readdirSync(join(ROOT, 'npm'))) {
    const { name, version, engines } = readJson(`npm/${platform}/package.json`);
    assert.equal(name, `${PACKAGE.name}-${platform}`);
    assert.equal(version, PACKAGE.version);
    assert.deepEqual(engines, PACKAGE.engines);
  }
});

test('the lock file names no registry', () => {
  const lock = readFileSync(join(ROOT, 'package-lock.json'), 'utf8');
  assert.ok(!lock.includes('"resolved"'));
});
