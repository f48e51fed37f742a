#!/usr/bin/env node
/**
 * Makes the tarballs that are published: `node scripts/pack.mjs [--out DIR] [--all] [--repository URL]`.
 *
 * One is of the main package, and one of each platform's package under `npm/` that has been built; with
 * `--all`, a platform that has not been is an error. They go to `dist/` unless told otherwise. The packed
 * package.json of the main package depends on exactly those platforms. The one in the sources names none: npm
 * could not install the development tools while they are unpublished. `--repository` is where the sources are,
 * which npm compares with the provenance.
 */

import {
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { ROOT, read } from './run.mjs';

const { target: hostTarget } = createRequire(import.meta.url)('../lib/platform.js');

const DAEMON = 'bin/smartvpn_daemon';

/** Fields of package.json that only the sources need. */
const WORKSHOP_FIELDS = ['napi', 'scripts', 'devDependencies', 'overrides'];

/** The number of a processor in the header of its programs. */
const MACHINES = { x64: 62, arm64: 183 };

/**
 * @param {{ out?: string, all?: boolean, repository?: string }} [options]
 * @returns {Promise<{ main: string, platforms: Record<string, string> }>} the tarballs' paths
 * @throws {Error} when the packages don't fit together, or nothing has been built
 */
export async function pack({ out = join(ROOT, 'dist'), all = false, repository } = {}) {
  checkVersions();
  const { built, missing } = findPlatforms();
  if (built.length === 0) throw new Error('Nothing has been built yet: `npm run build`.');
  if (all && missing.length > 0) throw new Error(`Not built: ${missing.join(', ')}.`);
  for (const platform of built) await checkBinaries(platform);

  mkdirSync(out, { recursive: true });
  const source = repository && { repository: { type: 'git', url: repository } };
  const platforms = {};
  for (const platform of built) {
    const manifest = readJson(`npm/${platform}/package.json`);
    platforms[platform] = await packFolder(join(ROOT, 'npm', platform), { ...manifest, ...source }, out);
  }
  const manifest = readJson('package.json');
  const optionalDependencies = Object.fromEntries(
    built.map((platform) => [`${manifest.name}-${platform}`, manifest.version]),
  );
  const published = { ...without(manifest, WORKSHOP_FIELDS), ...source, optionalDependencies };
  return { main: await packFolder(ROOT, published, out), platforms };
}

/** The version is in every manifest, and one. */
function checkVersions() {
  const { version } = readJson('package.json');
  const found = {
    'package-lock.json': readJson('package-lock.json').version,
    'Cargo.toml': /^version = "(.+)"$/m.exec(readText('Cargo.toml'))?.[1],
    'Cargo.lock': /^name = "smartvpn"\nversion = "(.+)"$/m.exec(readText('Cargo.lock'))?.[1],
  };
  for (const platform of readdirSync(join(ROOT, 'npm'))) {
    const file = `npm/${platform}/package.json`;
    found[file] = readJson(file).version;
  }
  const wrong = Object.entries(found).filter(([, other]) => other !== version);
  if (wrong.length === 0) return;
  const list = wrong.map(([file, other]) => `${other} in ${file}`).join(', ');
  throw new Error(`The version is ${version} in package.json, but ${list}.`);
}

function findPlatforms() {
  const platforms = readdirSync(join(ROOT, 'npm'));
  const isBuilt = (platform) =>
    readJson(`npm/${platform}/package.json`).files.every((file) =>
      existsSync(join(ROOT, 'npm', platform, file)),
    );
  return { built: platforms.filter(isBuilt), missing: platforms.filter((platform) => !isBuilt(platform)) };
}

/** Artifacts that were built elsewhere may have got into the wrong folder, or be of another version. */
async function checkBinaries(platform) {
  const folder = join(ROOT, 'npm', platform);
  const { cpu, files, version } = readJson(`npm/${platform}/package.json`);
  for (const file of files) {
    const machine = readMachine(join(folder, file));
    if (machine !== MACHINES[cpu[0]]) throw new Error(`${join(folder, file)} is no program for ${cpu[0]}.`);
  }
  if (platform !== hostTarget()) return;
  const daemon = join(folder, DAEMON);
  chmodSync(daemon, 0o755);
  const said = (await read(daemon, ['--version'])).trim();
  if (said !== `smartvpn_daemon ${version}`) {
    throw new Error(`${daemon} says it is "${said}", not version ${version}: build it anew.`);
  }
}

/** Which processor a program is for: the field `e_machine` of its ELF header. */
function readMachine(path) {
  const file = openSync(path, 'r');
  try {
    const header = Buffer.alloc(20);
    readSync(file, header, 0, header.length, 0);
    return header.toString('latin1', 0, 4) === '\x7fELF' ? header.readUInt16LE(18) : undefined;
  } finally {
    closeSync(file);
  }
}

/** Packs a copy of the folder that has just its published files, and `manifest` as package.json. */
async function packFolder(folder, manifest, out) {
  const stage = mkdtempSync(join(tmpdir(), 'smartvpn-pack-'));
  try {
    for (const file of [...manifest.files, 'README.md']) {
      cpSync(join(folder, file), join(stage, file), { recursive: true });
    }
    cpSync(join(ROOT, 'LICENSE'), join(stage, 'LICENSE'));
    // What carries artifacts from machine to machine may lose this.
    if (manifest.files.includes(DAEMON)) chmodSync(join(stage, DAEMON), 0o755);
    writeFileSync(join(stage, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    const output = await read('npm', [
      'pack', stage, '--pack-destination', out, '--json', '--ignore-scripts', '--loglevel=error',
    ]); // prettier-ignore
    const [{ filename }] = Object.values(JSON.parse(output));
    return join(out, filename);
  } finally {
    rmSync(stage, { recursive: true });
  }
}

function without(object, keys) {
  return Object.fromEntries(Object.entries(object).filter(([key]) => !keys.includes(key)));
}

function readText(file) {
  return readFileSync(join(ROOT, file), 'utf8');
}

function readJson(file) {
  return JSON.parse(readText(file));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const { values } = parseArgs({
      options: {
        out: { type: 'string' },
        all: { type: 'boolean' },
        repository: { type: 'string' },
      },
    });
    const out = values.out && resolve(values.out);
    const { main, platforms } = await pack({ ...values, out });
    for (const file of [main, ...Object.values(platforms)]) console.log(file);
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
