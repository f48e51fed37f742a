/** A stand-in for the npm registry, and installing from it as users do. */

import { spawn, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { basename, join } from 'node:path';

/** What npm needs of the environment; the settings of whoever runs the tests are none of it. */
const { PATH, HOME } = process.env;

/** Serves tarballs on loopback, as a registry does that holds nothing else. */
export class Registry {
  #server;
  #tarballs;

  /** @param {string[]} files paths of tarballs that `npm pack` made */
  static async open(files) {
    const registry = new Registry(files);
    registry.#server.listen(0, '127.0.0.1');
    await once(registry.#server, 'listening');
    return registry;
  }

  /** @private use {@link Registry.open} */
  constructor(files) {
    this.#tarballs = files.map((file) => ({ file, manifest: manifestOf(file), bytes: readFileSync(file) }));
    this.#server = createServer((request, response) => this.#answer(request.url, response));
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}/`;
  }

  close() {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  /** Runs npm in `folder`, which must have nothing but what this registry and its own cache give it. */
  async npm(folder, ...args) {
    const settings = join(folder, '.npmrc');
    writeFileSync(
      settings,
      `registry=${this.url}\ncache=${join(folder, '.npm')}\naudit=false\nfund=false\nupdate-notifier=false\n`,
    );
    const child = spawn('npm', [...args, '--ignore-scripts'], {
      cwd: folder,
      env: { PATH, HOME, npm_config_userconfig: settings, npm_config_globalconfig: '/dev/null' },
      timeout: 60_000,
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (output += text));
    }
    const [code] = await once(child, 'close');
    if (code !== 0) throw new Error(`npm ${args.join(' ')} failed with code ${code}:\n${output}`);
    return output;
  }

  #answer(url, response) {
    const name = basename(decodeURIComponent(url));
    const tarball = this.#tarballs.find(({ file }) => basename(file) === name);
    const packages = this.#tarballs.filter(({ manifest }) => manifest.name === name);
    if (tarball) response.end(tarball.bytes);
    else if (packages.length > 0) response.end(JSON.stringify(this.#packument(name, packages)));
    else response.writeHead(404).end('{}');
  }

  #packument(name, packages) {
    const versions = packages.map(({ file, manifest, bytes }) => [
      manifest.version,
      {
        ...manifest,
        dist: {
          tarball: `${this.url}${basename(file)}`,
          integrity: `sha512-${createHash('sha512').update(bytes).digest('base64')}`,
        },
      },
    ]);
    return { name, 'dist-tags': { latest: versions.at(-1)[0] }, versions: Object.fromEntries(versions) };
  }
}

/** The files of a tarball by path, as `-rwxr-xr-x`, without the folder that all are in. */
export function listTarball(file) {
  const lines = execFileSync('tar', ['tvf', file], { encoding: 'utf8' }).trim().split('\n');
  return Object.fromEntries(
    lines.map((line) => {
      const [mode] = line.split(' ');
      return [line.slice(line.indexOf(' package/') + ' package/'.length), mode];
    }),
  );
}

/** The package.json in a tarball. */
export function manifestOf(file) {
  return JSON.parse(execFileSync('tar', ['xOf', file, 'package/package.json'], { encoding: 'utf8' }));
}
