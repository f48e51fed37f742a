'use strict';

const assert = require('node:assert/strict');
const { execFileSync, spawnSync } = require('node:child_process');
const {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { after, before, describe, it, test } = require('node:test');

const { findAddon, target } = require('../lib/platform.js');
const { ROOT } = require('./support/child.js');

const readJson = (file) => JSON.parse(readFileSync(join(ROOT, file), 'utf8'));
const PACKAGE = readJson('package.json');
const PLATFORMS = readdirSync(join(ROOT, 'npm')).toSorted();
const TOOLS = join(ROOT, 'node_modules');

test('nothing runs at installation, and nothing else is installed', () => {
  for (const file of ['package.json', ...PLATFORMS.map((platform) => `npm/${platform}/package.json`)]) {
    const { scripts = {}, private: isPrivate, ...fields } = readJson(file);
    const automatic = Object.keys(scripts).filter((name) =>
      /^(pre|post)?(install|prepare|publish|pack)$/.test(name),
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
});

test('each platform has a package that says what it is for and holds addon and daemon', () => {
  for (const platform of PLATFORMS) {
    const { description, preferUnplugged, ...fields } = readJson(`npm/${platform}/package.json`);
    const [os, cpu, libc] = platform.split('-');
    const addon = `smartvpn.${platform}.node`;
    assert.deepEqual(fields, {
      name: `${PACKAGE.name}-${platform}`,
      version: PACKAGE.version,
      license: PACKAGE.license,
      author: PACKAGE.author,
      type: 'commonjs',
      os: [os],
      cpu: [cpu],
      libc: [{ gnu: 'glibc', musl: 'musl' }[libc]],
      main: addon,
      files: [addon, 'bin/smartvpn_daemon'],
      engines: PACKAGE.engines,
    });
    assert.ok(description.includes(cpu), description);
    // An addon and a program cannot be used from inside an archive.
    assert.equal(preferUnplugged, true);
  }
});

test('the release builds every platform, with actions of a known version and without secrets', () => {
  const release = readFileSync(join(ROOT, '.github/workflows/release.yml'), 'utf8');
  const matrix = Array.from(
    release.matchAll(/platform: ([\w-]+), target: ([\w-]+)/g),
    ([, ...entry]) => entry,
  );
  assert.deepEqual(matrix.map(([platform]) => platform).toSorted(), PLATFORMS);
  assert.deepEqual(
    matrix.map(([, triple]) => triple),
    PACKAGE.napi.targets,
  );
  for (const file of ['ci.yml', 'release.yml']) {
    const workflow = readFileSync(join(ROOT, '.github/workflows', file), 'utf8');
    const actions = Array.from(workflow.matchAll(/uses: (\S+)/g), ([, action]) => action);
    for (const action of actions) assert.match(action, /^\.\/|@(v\d+|[0-9a-f]{40})$/);
    assert.ok(actions.length > 0 && !workflow.includes('secrets.'), file);
  }
});

test('the lock file names no registry', () => {
  const lock = readFileSync(join(ROOT, 'package-lock.json'), 'utf8');
  assert.ok(!lock.includes('"resolved"'));
});

/** Why there are no tarballs to test, or `false`. */
function cannotPack() {
  try {
    return !existsSync(findAddon());
  } catch (error) {
    return error.message;
  }
}

/** Why a development tool cannot be used, or `false`. */
function skip(tool) {
  return !existsSync(join(TOOLS, tool)) && 'The development tools are missing: `npm ci`.';
}

describe('the tarballs', { skip: cannotPack() }, () => {
  const here = target();
  let folder, tarballs, registry, listTarball, manifestOf;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'smartvpn-package-'));
    const { pack } = await import('../scripts/pack.mjs');
    const support = await import('./support/registry.mjs');
    ({ listTarball, manifestOf } = support);
    const repository = 'git+https://git.example/smartvpn.git';
    tarballs = await pack({ out: folder, repository });
    registry = await support.Registry.open([tarballs.main, ...Object.values(tarballs.platforms)]);
  });
  after(() => {
    registry?.close();
    rmSync(folder, { recursive: true });
  });

  /** A user's project with nothing in it. */
  function makeProject() {
    const project = mkdtempSync(join(folder, 'project-'));
    writeFileSync(join(project, 'package.json'), '{ "private": true }');
    return project;
  }

  function runNode(project, ...args) {
    return execFileSync(process.execPath, args, { cwd: project, encoding: 'utf8' });
  }

  it('of the main package holds what a program needs, and nothing of the workshop', () => {
    const library = readdirSync(join(ROOT, 'lib'), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(ROOT.length + 1));
    const single = ['CHANGELOG.md', 'LICENSE', 'README.md', 'index.d.ts', 'index.js', 'package.json'];
    const programs = Object.values(PACKAGE.bin ?? {}).map((file) => file.replace('./', ''));
    assert.deepEqual(
      Object.keys(listTarball(tarballs.main)).toSorted(),
      [...single, ...programs, ...library].toSorted(),
    );
  });

  it('of the main package depends on exactly the platforms that were built', () => {
    const manifest = manifestOf(tarballs.main);
    assert.deepEqual(
      manifest.optionalDependencies,
      Object.fromEntries(
        Object.keys(tarballs.platforms).map((platform) => [`smartvpn-${platform}`, PACKAGE.version]),
      ),
    );
    for (const field of ['scripts', 'devDependencies', 'overrides', 'napi', 'dependencies']) {
      assert.equal(manifest[field], undefined, field);
    }
    assert.equal(manifest.repository.url, 'git+https://git.example/smartvpn.git');
  });

  it('of a platform hold addon and daemon, which stays executable', () => {
    assert.ok(here in tarballs.platforms);
    for (const [platform, file] of Object.entries(tarballs.platforms)) {
      const addon = `smartvpn.${platform}.node`;
      const files = listTarball(file);
      assert.deepEqual(
        Object.keys(files).toSorted(),
        ['LICENSE', 'README.md', 'bin/smartvpn_daemon', 'package.json', addon].toSorted(),
      );
      assert.equal(files['bin/smartvpn_daemon'], '-rwxr-xr-x');
    }
  });

  /** Runs a development tool, which must be content. */
  function runTool(program, ...args) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(TOOLS, program), ...args], {
      encoding: 'utf8',
    });
    assert.equal(status, 0, stdout + stderr);
    return stdout;
  }

  it('have nothing that publint finds', { skip: skip('publint') }, () => {
    for (const file of [tarballs.main, ...Object.values(tarballs.platforms)]) {
      assert.match(runTool('publint/src/cli.js', 'run', '--strict', file), /All good!/);
    }
  });

  it('have nothing that attw finds', { skip: skip('@arethetypeswrong/cli') }, () => {
    assert.match(runTool('@arethetypeswrong/cli/dist/index.js', tarballs.main), /No problems found/);
  });

  it('install from a registry, with the package of this platform alone', async () => {
    const project = makeProject();
    await registry.npm(project, 'install', 'smartvpn');
    const installed = readdirSync(join(project, 'node_modules')).filter((name) => !name.startsWith('.'));
    assert.deepEqual(installed.toSorted(), ['smartvpn', `smartvpn-${here}`]);

    const names = ['VpnClient', 'VpnConfig', 'VpnError', 'VpnServer'];
    const use = `console.log([${names}].map(({ name }) => name).join(), await new VpnServer().start())`;
    assert.equal(
      runNode(project, '--input-type=module', '-e', `import { ${names} } from 'smartvpn'; ${use}`),
      `${names} undefined\n`,
    );
    assert.equal(
      runNode(project, '-e', `const { ${names} } = require('smartvpn'); (async () => { ${use} })()`),
      `${names} undefined\n`,
    );
    const daemon = join(project, 'node_modules', `smartvpn-${here}`, 'bin/smartvpn_daemon');
    assert.equal(
      execFileSync(daemon, ['--version'], { encoding: 'utf8' }),
      `smartvpn_daemon ${PACKAGE.version}\n`,
    );
  });

  it('installed without optional dependencies say so, and what they say mends it', async () => {
    const project = makeProject();
    await registry.npm(project, 'install', '--omit=optional', 'smartvpn');
    const start =
      "new (require('smartvpn').VpnServer)().start().catch(({ message }) => console.log(message))";
    const message = runNode(project, '-e', start);
    const [, ...command] = /`npm (\S+) (--no-save) (\S+)` mends it/.exec(message) ?? assert.fail(message);
    await registry.npm(project, ...command);
    assert.equal(runNode(project, '-e', start), '');
  });

  for (const options of [
    { module: 'node16' },
    { module: 'nodenext' },
    { module: 'preserve', moduleResolution: 'bundler' },
  ]) {
    it(
      `are accepted by tsc as ${Object.values(options).join(' with ')}`,
      { skip: skip('typescript') },
      () => {
        const project = makeProject();
        const modules = join(project, 'node_modules');
        mkdirSync(join(modules, 'smartvpn'), { recursive: true });
        const unpack = ['xf', tarballs.main, '--strip-components=1', '-C', join(modules, 'smartvpn')];
        execFileSync('tar', unpack);
        for (const name of ['@types', 'undici-types']) symlinkSync(join(TOOLS, name), join(modules, name));
        cpSync(join(ROOT, '__test__/types'), join(project, 'types'), { recursive: true });
        const { compilerOptions } = readJson('tsconfig.json');
        writeFileSync(
          join(project, 'tsconfig.json'),
          JSON.stringify({ compilerOptions: { ...compilerOptions, ...options }, include: ['types'] }),
        );
        runTool('typescript/bin/tsc', '-p', project);
      },
    );
  }
});
