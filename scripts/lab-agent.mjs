/**
 * The program that {@link Agent} (lab-remote.mjs) starts in a host of a lab. It evaluates the
 * functions it is sent and answers with what they return or throw; VPN objects made on request live
 * here and send their events back.
 *
 * It installs no signal or exit handler, so that what is seen is the library's doing.
 */

/** Names of all events of VpnClient and VpnServer. */
const EVENTS = [
  'exit', 'reconnected', 'status', 'quality', 'log', 'lost',
  'client-connected', 'client-disconnected', 'client-resumed', 'warning',
]; // prettier-ignore

const library = process.argv[2];
const vpns = new Map();

/** What a function that runs here gets as its first argument. */
const context = {
  vpns,

  /** Loads the library, or another module of the project by its path from this folder. */
  async load(path = library) {
    const module = await import(new URL(path, import.meta.url));
    return path === library ? (module.default ?? module) : module;
  },

  /** Makes a `VpnClient` or `VpnServer` and sends its events back under `id`. */
  async create(id, className, options) {
    const vpn = new (await context.load())[className](options);
    for (const event of EVENTS) {
      vpn.on(event, (...args) => send({ vpn: id, event, args: args.map(plain) }));
    }
    vpns.set(id, vpn);
  },
};

process.on('message', async ({ id, source, args }) => {
  try {
    // oxlint-disable-next-line no-eval -- to run what its own parent sends is what it is for
    const task = (0, eval)(`(${source})`);
    send({ id, value: plain(await task(context, ...args)) });
  } catch (error) {
    send({ id, error: plain(error) });
  }
});

// Only what is under test may hold this process; the controller holds it explicitly.
process.on('disconnect', () => process.exit());

send({ ready: true });

function send(message) {
  if (process.connected) process.send(message);
}

/** Errors lose their class on the way; their members survive in this form, the error of an event too. */
function plain(value) {
  if (value?.error instanceof Error) return { ...value, error: plain(value.error) };
  if (!(value instanceof Error)) return value;
  const { name, message, stack, code, path, cause } = value;
  return { isError: true, name, message, stack, code, path, cause: cause && plain(cause) };
}
