/// <reference types="node" />

import { EventEmitter } from 'node:events';

/**
 * A VPN that a Node program holds: in its own process, or in a daemon.
 *
 * Every rejection and every throw is a {@link VpnError}: match on its `code`. Times are ISO 8601
 * strings in UTC. Keys are standard base64 of 32 bytes. Bytes and packets count tunnelled IP packets.
 */

// ---------------------------------------------------------------------------------- control

/**
 * Where the engine runs that carries the packets: in this process, in a daemon that is its child, or in one
 * that runs already. Methods, events and errors are the same; what `stop()` ends, and what can fail on the
 * way to the engine, are not. At most 1,000 calls can wait for their answers; one more is `invalid-argument`.
 */
export type TVpnTransportOptions =
  IVpnInProcessTransportOptions | IVpnStdioTransportOptions | IVpnSocketTransportOptions;

/** In this process, on threads of its own. */
export interface IVpnInProcessTransportOptions {
  transport: 'inprocess';
}

/**
 * In a `smartvpn_daemon` that is spawned by `start()`. It is told to end by `stop()`, and ends with this
 * process, however that ends. A terminal's Ctrl-C does not reach it: it is for the program.
 *
 * `start()` rejects `control-unavailable` if it does not come up within 10 s. If it ends by itself, calls in
 * flight reject `daemon-exited`. What it writes to its standard error becomes `log` events. One call may
 * take 64 KiB as JSON; a longer one is `invalid-argument`, and is not sent.
 */
export interface IVpnStdioTransportOptions {
  transport: 'stdio';

  /**
   * The daemon's executable.
   *
   * @default the one that comes with this package
   */
  daemonPath?: string;
}

/**
 * In a `smartvpn_daemon --management-socket` that runs already. It goes on, with its VPN, after `stop()` and
 * after the end of this process; `getStatus()` tells what it is doing. Others may control it at the same time.
 *
 * `start()` makes one attempt, and rejects `control-unavailable` or `wrong-mode`. When the connection drops,
 * calls in flight reject `control-disconnected`; they may have been carried out. Later calls wait for the new
 * connection. When that is given up, they and all later ones reject `control-unavailable`, `exit` is emitted,
 * and `start()` begins anew. One call may take 64 KiB as JSON; a longer one is `invalid-argument`.
 */
export interface IVpnSocketTransportOptions {
  transport: 'socket';

  /** The daemon's Unix socket. */
  socketPath: string;

  /**
   * Whether to connect again when the control connection drops. Without it, a drop is the end.
   *
   * @default true
   */
  autoReconnect?: boolean;

  /**
   * How long to wait before the first attempt, in milliseconds, 1 at least; it doubles with each. Each wait
   * is up to 20 % longer or shorter.
   *
   * @default 100
   */
  reconnectBaseDelayMs?: number;

  /**
   * Where the doubling ends, in milliseconds, 1 at least.
   *
   * @default 30000
   */
  reconnectMaxDelayMs?: number;

  /**
   * After how many attempts in a row to give up.
   *
   * @default 10
   */
  maxReconnectAttempts?: number;
}

/** Options of `new VpnClient()`. */
export interface IVpnClientOptions {
  /**
   * Where the engine runs.
   *
   * @default { transport: 'inprocess' }
   */
  transport?: TVpnTransportOptions;

  /** What `connect()` uses unless it is given another. Copied; judged by `connect()`. */
  config?: IVpnClientConfig;
}

/** Options of `new VpnServer()`. */
export interface IVpnServerOptions {
  /**
   * Where the engine runs.
   *
   * @default { transport: 'inprocess' }
   */
  transport?: TVpnTransportOptions;

  /** What `start()` uses unless it is given another. Copied; judged by `start()`. */
  config?: IVpnServerConfig;
}

/** How an engine, or the way to it, ended: an `exit` event. */
export interface IVpnExit {
  /**
   * 0 after `stop()` or `close()`; 1 after a failure, or when the way to a daemon was given up. Of a daemon that
   * is a child and ended by itself its own code, `null` if a signal ended it.
   */
  code: number | null;

  /** The signal that ended a child. */
  signal: string | null;

  /** What failed, if the engine did not end because it was told to. */
  error?: VpnError;
}

/** A line of the engine's log: a `log` event. */
export interface IVpnLog {
  level: 'error' | 'warn' | 'info' | 'debug' | 'trace';

  /** The part of the engine that says it; `daemon` and `control` are a daemon and the connection to it. */
  target: string;
  message: string;
  time: string;
}

/** Events were told faster than they were taken: a `lost` event. */
export interface IVpnLost {
  /** How many this listener missed. */
  count: number;
}

/** What clients and servers have in common. */
declare abstract class VpnController extends EventEmitter {
  /** Whether the engine runs: from a `start()` that succeeded until `stop()`, or until it failed. */
  readonly running: boolean;

  /**
   * Starts the end, and returns at once: calls in flight reject `aborted`, peers are told, the host is
   * put back as found. No event follows but one `exit`, when that is done. Does nothing if nothing runs.
   *
   * Over a socket it only closes that: the daemon and its VPN go on.
   */
  stop(): void;

  /**
   * `stop()`, and resolves when it is done: peers have been told (2 s at most), the host is as found, the
   * port is free. Safe to call at any time and more than once.
   *
   * @throws {VpnError} `internal` if the host could not be put back
   */
  close(): Promise<void>;

  /** The same as `close()`. */
  [Symbol.asyncDispose](): Promise<void>;

  /**
   * Holds the event loop, as a `net.Server` does, while a client is connecting, connected or
   * reconnecting, or a server serves. This is the default.
   */
  ref(): this;

  /** Lets the process end although a client is connected or a server serves; the tunnel ends with it. */
  unref(): this;
}

// ----------------------------------------------------------------------------------- client

/** The events of a {@link VpnClient}, and what their listeners are given. None is named `error`. */
export interface IVpnClientEvents {
  /** The engine ended. Exactly once for each engine that a `start()` has started, whatever ended it. */
  exit: [end: IVpnExit];

  /** The control socket is back after a drop. A `status` event follows. */
  reconnected: [];

  /** The state changed. A failure that no call is there to reject is told here, with `state: 'error'`. */
  status: [status: IVpnStatus];

  /** A keepalive was answered. */
  quality: [quality: IVpnConnectionQuality];

  log: [line: IVpnLog];
  lost: [lost: IVpnLost];
}

/**
 * A VPN client: a tunnel to one server.
 *
 * Its engine needs root, or CAP_NET_ADMIN, and `/dev/net/tun`.
 *
 * @example
 * const client = new VpnClient({ config: { serverUrl: 'wss://vpn.example.com/', serverPublicKey } });
 * await client.start();
 * try {
 *   const { assignedIp } = await client.connect();
 *   console.log(`This machine is ${assignedIp}.`);
 * } catch (error) {
 *   if (error.code === 'connection-refused') console.error('The server is not there.');
 *   else throw error;
 * }
 */
export class VpnClient extends VpnController {
  /** @throws {VpnError} `invalid-argument`; `invalid-config` if the configuration is no plain data */
  constructor(options?: IVpnClientOptions);

  /**
   * Joins a server by an invite: makes a pair of keys, registers the public one with the server, and resolves with
   * the configuration to connect with. No tunnel is made, so it needs neither root nor an engine. One attempt, of 15 s
   * at most; it goes through the proxy that the environment names.
   *
   * @param url what the server's `createInvite()` gave: `vpn://…`, or `vpn+ws://…` without TLS
   * @throws {VpnError} `invalid-argument`; `file-error` if there is such a file already; `unauthorized` if the invite
   *   is used up, has expired or was withdrawn; and the codes about the way to the server. If the connection breaks
   *   before the server has answered, the message says that the key may be registered, and the file stays.
   */
  static join(url: string, options?: IVpnJoinOptions): Promise<IVpnClientConfig>;

  /**
   * Starts the engine. `true` when it runs, also when it did already.
   *
   * After `stop()` it starts a new one, once the one before has ended.
   *
   * @throws {VpnError} `unsupported-platform`; `control-unavailable`, `wrong-mode` if there is no way to a
   *   daemon; `aborted` if `stop()` comes first
   */
  start(): Promise<boolean>;

  /**
   * Sets up the tunnel; resolves when packets can flow. One attempt, of `connectTimeoutMs` at most; from
   * its success on, `config.reconnect` says what happens when the connection breaks.
   *
   * @param config replaces the configuration given before, whole
   * @throws {VpnError} `not-running`, `already-connected`, `invalid-config`; `aborted` after `disconnect()`,
   *   `stop()` or an abort; and each code of {@link TVpnErrorCode} about the host or the way to the server
   */
  connect(config?: IVpnClientConfig, options?: IVpnConnectOptions): Promise<IVpnAddresses>;

  /**
   * Tells the server, takes the tunnel down, and puts the host back as found. Without a tunnel it does
   * nothing. It ends a reconnect, and makes a `connect()` under way reject `aborted`.
   *
   * @throws {VpnError} `not-running`
   */
  disconnect(): Promise<void>;

  /** @throws {VpnError} `not-running` */
  getStatus(): Promise<IVpnStatus>;

  /**
   * What has passed through the tunnel since `connect()`, over reconnects.
   *
   * @throws {VpnError} `not-running`
   */
  getStatistics(): Promise<IVpnStatistics>;

  /** @throws {VpnError} `not-running`, `not-connected` */
  getConnectionQuality(): Promise<IVpnConnectionQuality>;

  /** @throws {VpnError} `not-running`, `not-connected` */
  getMtuInfo(): Promise<IVpnMtuInfo>;

  on<E extends keyof IVpnClientEvents>(event: E, listener: (...data: IVpnClientEvents[E]) => void): this;
  once<E extends keyof IVpnClientEvents>(event: E, listener: (...data: IVpnClientEvents[E]) => void): this;
  off<E extends keyof IVpnClientEvents>(event: E, listener: (...data: IVpnClientEvents[E]) => void): this;
  addListener<E extends keyof IVpnClientEvents>(
    event: E,
    listener: (...data: IVpnClientEvents[E]) => void,
  ): this;
  removeListener<E extends keyof IVpnClientEvents>(
    event: E,
    listener: (...data: IVpnClientEvents[E]) => void,
  ): this;
  prependListener<E extends keyof IVpnClientEvents>(
    event: E,
    listener: (...data: IVpnClientEvents[E]) => void,
  ): this;
  prependOnceListener<E extends keyof IVpnClientEvents>(
    event: E,
    listener: (...data: IVpnClientEvents[E]) => void,
  ): this;
}

/** Options of `VpnClient.join()`. */
export interface IVpnJoinOptions {
  /**
   * A file for the configuration, which must not be there yet. Only its owner can read it (mode 0600). It is written
   * before the server registers the key, so that the key is never lost, and removed again if the server does not.
   */
  configPath?: string | URL;

  /** A label that the server shows: at most 64 characters, no control characters. It is in the configuration too. */
  name?: string;
}

/** Options of one `connect()`. */
export interface IVpnConnectOptions {
  /** Ends the attempt, which rejects `aborted` with the signal's `reason` as `cause`. Then without effect. */
  signal?: AbortSignal;
}

/** The addresses of a client in the tunnel. */
export interface IVpnAddresses {
  assignedIp: string;

  /** If the server gives out IPv6 addresses. */
  assignedIp6?: string;
}

/** The configuration of a client. Whatever is wrong with it is `invalid-config`, with the field's path. */
export interface IVpnClientConfig {
  /**
   * `wss://host[:port]/path`; or `ws://…`, without TLS: what passes the tunnel is encrypted all the same.
   */
  serverUrl: string;

  /** The server's public key. If it has another: `server-key-mismatch`. */
  serverPublicKey: string;

  /**
   * The client's own private key, by which a server knows it; `generateKeypair()` and `npx smartvpn keygen` make one.
   * The server is told the public key that belongs to it, `clients` or `authenticate` say what that is worth there.
   * Keep it secret: see `VpnConfig.saveToFile()`.
   *
   * @default none: the client is nobody in particular
   */
  privateKey?: string;

  /**
   * A credential for the server's `authenticate`: 1–4,096 printable ASCII characters, no blanks. It is sent, sealed for
   * the server, with each connection that does not resume a session.
   */
  token?: string;

  /**
   * Resolvers for the tunnel: IP addresses, 8 at most. While the tunnel is up, the programs of this host ask
   * them for names, through the tunnel; `getStatus().dns` tells how that was set. `[]` leaves the host's
   * resolvers alone.
   *
   * @default the server's
   */
  dns?: string[];

  /**
   * The tunnel's MTU in bytes, 576–65535, 1280 at least with IPv6. The smaller of both ends' holds.
   *
   * @default 1420
   */
  mtu?: number;

  /**
   * Seconds between two keepalives until the link's health is known, 5–120.
   *
   * @default the server's
   */
  keepaliveIntervalSecs?: number;

  /**
   * Networks to send into the tunnel besides the VPN's own: CIDRs, of IPv4 or IPv6. `0.0.0.0/0` is
   * everything but the way to the server; where the tunnel has no IPv6, IPv6 is then unreachable.
   *
   * @default []
   */
  routes?: string[];

  /**
   * The interface's name: 1–15 of `A-Z a-z 0-9 _ . -`. If it exists: `tun-name-in-use`.
   *
   * @default one that is free
   */
  tunName?: string;

  /**
   * A certificate authority to trust instead of the system's: PEM text, or a path to it. A relative path
   * starts at the working directory, or in a file at the file's folder.
   *
   * @default the system's
   */
  tlsCa?: string;

  /**
   * The HTTP proxy to go through: `http://[user:password@]host:port`, user and password percent-encoded. It is
   * asked for a tunnel (`CONNECT`) to the server, whose name it looks up; what it carries stays encrypted. A
   * failure on its side is `proxy-error`. `''` is none.
   *
   * @default the environment's `https_proxy` or `HTTPS_PROXY`, unless `no_proxy` or `NO_PROXY` exempts the server
   */
  proxy?: string;

  /** A label that the server shows: at most 64 characters, no control characters. */
  name?: string;

  /**
   * How long one attempt may take, in milliseconds. Then: `timeout`.
   *
   * @default 15000
   */
  connectTimeoutMs?: number;

  /**
   * Congestion control of the connection that carries the tunnel: `'auto'` is BBR where the system allows
   * it, `'system'` what the system uses. The engine's own limit of delay holds in both.
   *
   * @default 'auto'
   */
  congestionControl?: 'auto' | 'system';

  /**
   * The folder for the journal by which a next start puts right what a killed process left on the host;
   * `null` keeps none.
   *
   * @default '/var/lib/smartvpn' for root, else null
   */
  stateDir?: string | null;

  /**
   * Whether to take the tunnel up again when its connection breaks, and how patiently.
   *
   * @default true
   */
  reconnect?: boolean | IVpnReconnectOptions;
}

/** How a client takes its tunnel up again. Each wait is drawn from 0 to a limit that doubles. */
export interface IVpnReconnectOptions {
  /**
   * The limit of the first wait, in milliseconds.
   *
   * @default 250
   */
  baseDelayMs?: number;

  /**
   * The limit of all waits, in milliseconds.
   *
   * @default 30000
   */
  maxDelayMs?: number;

  /**
   * After how many failures in a row to give up, with `state: 'error'`.
   *
   * @default unlimited
   */
  maxAttempts?: number;
}

/**
 * Of a client: its tunnel's. Of a server: `disconnected` no VPN, `connecting` setting up, `connected`
 * serving, `error` ended by a failure.
 */
export type TVpnConnectionState =
  'disconnected' | 'connecting' | 'handshaking' | 'connected' | 'reconnecting' | 'error';

export interface IVpnStatus {
  state: TVpnConnectionState;

  /** The address in the tunnel, of this end. */
  assignedIp?: string;
  assignedIp6?: string;

  /**
   * Of a client the address it is connected to, or through a proxy the server's name and port; of a server the
   * address it listens on: `host:port`.
   */
  serverAddr?: string;

  /** Since when the client is connected, or the server serves. */
  connectedSince?: string;

  /** What went wrong last: the words, and the {@link TVpnErrorCode}. */
  lastError?: string;
  lastErrorCode?: string;

  /**
   * A client's resolvers that are set on this host, and how: systemd-resolved was told, the program
   * `resolvconf` was, `/etc/resolv.conf` was rewritten, or none were set.
   */
  dns?: { servers: string[]; by: 'resolved' | 'resolvconf' | 'file' | 'none' };
}

export interface IVpnStatistics {
  bytesSent: number;
  bytesReceived: number;
  packetsSent: number;
  packetsReceived: number;
  keepalivesSent: number;
  keepalivesReceived: number;

  /** Since the client is connected, or the server serves. */
  uptimeSeconds: number;

  /** Of a client, while it is connected. */
  quality?: IVpnConnectionQuality;

  packetsDropped?: number;
  bytesDropped?: number;
  drops?: TVpnDrops;
}

/** What was dropped, by priority and reason: non-zero ones only, summing up to `packetsDropped`, `bytesDropped`. */
export type TVpnDrops = Partial<
  Record<TVpnPriority, Partial<Record<TVpnDropReason, { packets: number; bytes: number }>>>
>;

/** The class of a packet. What can't be classified counts as normal. */
export type TVpnPriority = 'high' | 'normal' | 'low';

export type TVpnDropReason =
  | 'queue-full'
  | 'queue-delay'
  | 'rate-limit'
  | 'too-big'
  | 'spoofed'
  | 'link-local'
  | 'misdirected'
  | 'malformed'
  | 'offload-invalid'
  | 'no-route'
  | 'client-to-client'
  | 'stale'
  | 'not-connected';

export type TVpnLinkHealth = 'healthy' | 'degraded' | 'critical';

export interface IVpnConnectionQuality {
  /** The smoothed round-trip time and its variation, in milliseconds. */
  srttMs: number;
  jitterMs: number;

  /** The extremes of the last 10 minutes, in milliseconds. */
  minRttMs: number;
  maxRttMs: number;

  /** The share of the last 64 keepalives that was not answered in time, 0–1. */
  lossRatio: number;
  consecutiveTimeouts: number;
  linkHealth: TVpnLinkHealth;
  currentKeepaliveIntervalSecs: number;
}

/** Sizes in bytes. */
export interface IVpnMtuInfo {
  /** The tunnel's MTU, which both ends agreed on: the longest IP packet that it takes. */
  tunMtu: number;

  /** What `linkMtu` leaves after `overheadBytes`. For information: nothing is derived from it. */
  effectiveMtu: number;

  /** The present MTU of the interface that leads to the server. */
  linkMtu: number;

  /** What the layers around one full packet cost, as a nominal budget. */
  overheadBytes: number;

  /** Packets too big for the tunnel that were dropped, since `connect()`. */
  oversizedPacketsDropped: number;

  /** How many of their senders were told so by ICMP: at most 50 at once and 100 a second. */
  icmpTooBigSent: number;

  /**
   * What each layer adds to one packet of `tunMtu` bytes that the client sends alone on this very
   * connection, from the wire inwards; 0 is left out. Where the sum exceeds what one TCP segment
   * takes, `ip` and `tcp` count the headers of all its segments. Packets that are sent together share
   * `ip`, `tcp`, `tls`, `websocket` and `mask`. Absent during a reconnect.
   */
  layers?: { name: TVpnLayerName; bytes: number }[];
}

/** A layer around a packet; `nonce` and `tag` are those of the tunnel's own encryption. */
export type TVpnLayerName = 'ip' | 'tcp' | 'tls' | 'websocket' | 'mask' | 'frame' | 'nonce' | 'tag';

// ----------------------------------------------------------------------------------- server

/** The events of a {@link VpnServer}, and what their listeners are given. None is named `error`. */
export interface IVpnServerEvents {
  /** A client has joined. */
  'client-connected': [client: IVpnClientInfo];

  /** A client's session has ended. Once for each session. */
  'client-disconnected': [end: { clientId: string; reason: TVpnDisconnectReason }];

  /** A client is back within the grace period, with its address. */
  'client-resumed': [client: IVpnClientInfo];

  /** Something is wrong, and the server goes on. */
  warning: [warning: { code: string; message: string; clientId?: string }];

  /** The engine ended. Exactly once for each engine that a `start()` has started, whatever ended it. */
  exit: [end: IVpnExit];

  /** The control socket is back after a drop. A `status` event follows. */
  reconnected: [];

  /** The state changed. A failure that no call is there to reject is told here, with `state: 'error'`. */
  status: [status: IVpnStatus];

  log: [line: IVpnLog];
  lost: [lost: IVpnLost];
}

/** Why a client's session ended. */
export type TVpnDisconnectReason =
  | 'client-disconnect'
  | 'kicked'
  | 'removed'
  | 'replaced'
  | 'idle-timeout'
  | 'shutting-down'
  | 'connection-lost'
  | 'dead-peer'
  | 'protocol-error'
  | 'expired';

/**
 * A VPN server: serves any number of clients on one port.
 *
 * Its engine needs root, or CAP_NET_ADMIN, and `/dev/net/tun`.
 *
 * @example
 * const server = new VpnServer();
 * await server.start();
 * const keys = await server.generateKeypair();
 * await server.start({ listenAddr: '0.0.0.0:8443', subnet: '10.8.0.0/24', ...keys });
 * server.on('client-connected', ({ clientId, assignedIp }) => console.log(clientId, assignedIp));
 */
export class VpnServer extends VpnController {
  /** @throws {VpnError} `invalid-argument`; `invalid-config` if the configuration is no plain data */
  constructor(options?: IVpnServerOptions);

  /**
   * Starts the engine; and serves, if there is a configuration: the one given, else the last one, else the
   * constructor's. If it fails, an engine that it has started is ended again.
   *
   * @param config replaces the configuration given before, whole
   * @throws {VpnError} `already-running` if it serves; `invalid-config`, `unsupported-platform`;
   *   `control-unavailable`, `wrong-mode` if there is no way to a daemon; `aborted` if `stop()` comes first;
   *   `permission-denied`, `address-in-use` and the other codes of {@link TVpnErrorCode} about the host
   */
  start(config?: IVpnServerConfig): Promise<void>;

  /**
   * Ends the VPN: clients are told, masquerading and interface undone. The engine stays.
   *
   * @throws {VpnError} `not-running`
   */
  stopServer(): Promise<void>;

  /** @throws {VpnError} `not-running` */
  getStatus(): Promise<IVpnStatus>;

  /**
   * What has passed through the tunnels since `start()`.
   *
   * @throws {VpnError} `not-running`
   */
  getStatistics(): Promise<IVpnServerStatistics>;

  /** @throws {VpnError} `not-running` */
  listClients(): Promise<IVpnClientInfo[]>;

  /**
   * Ends a client's session. The client is told, and does not come back by itself.
   *
   * @throws {VpnError} `not-running`, `unknown-client`, `invalid-argument`
   */
  disconnectClient(id: string): Promise<void>;

  /**
   * Makes a new pair of keys. Needs an engine, but no configuration.
   *
   * @throws {VpnError} `not-running`
   */
  generateKeypair(): Promise<IVpnKeypair>;

  /**
   * Limits a client from now until its session ends, each direction for itself; the connection stays. Takes the
   * place of the limit that it had, of `defaultRateLimitBytesPerSec` too. What is counted are the bytes of the
   * IP packets in the tunnel, as in `bytesSent` and `bytesReceived`. What exceeds the limit waits first, and is
   * dropped as `rate-limit` when it has waited for too long.
   *
   * @param rateBytesPerSec the average, in bytes (not bits) per second: an integer, 1,000–10^11
   * @param burstBytes what may pass at once after a pause, in bytes: an integer, at least 65,536
   * @throws {VpnError} `not-running`, `unknown-client`; `invalid-argument` with the parameter's name
   */
  setClientRateLimit(id: string, rateBytesPerSec: number, burstBytes: number): Promise<void>;

  /**
   * Lifts a client's limit, that of the configuration too, from now until its session ends.
   *
   * @throws {VpnError} `not-running`, `unknown-client`, `invalid-argument`
   */
  removeClientRateLimit(id: string): Promise<void>;

  /** @throws {VpnError} `not-running`, `unknown-client`, `invalid-argument` */
  getClientTelemetry(id: string): Promise<IVpnClientTelemetry>;

  /**
   * Registers a client, which can connect from now on. With `stateDir` it is registered also after a restart.
   *
   * @throws {VpnError} `not-running`; `invalid-argument` with the field's name, also for an id, key or address that
   *   another client has
   */
  addClient(client: IVpnClientRegistration): Promise<IVpnRegisteredClient>;

  /**
   * Changes a registered client; its sessions go by that at once, and end if they may not go on. `null` removes a
   * field.
   *
   * @throws {VpnError} `not-running`, `unknown-client`, `invalid-argument`
   */
  updateClient(id: string, changes: IVpnClientChanges): Promise<IVpnRegisteredClient>;

  /**
   * Removes a registered client. Its sessions end, it is told `removed` and does not come back by itself, and its
   * tickets are void.
   *
   * @throws {VpnError} `not-running`, `unknown-client`, `invalid-argument`
   */
  removeClient(id: string): Promise<void>;

  /** @throws {VpnError} `not-running` */
  listRegisteredClients(): Promise<IVpnRegisteredClient[]>;

  /**
   * Makes an invite: a URL with which whoever has it can register a key of their own, by `VpnClient.join()` or
   * `npx smartvpn join`.
   *
   * @throws {VpnError} `not-running`; `invalid-argument` with the option's name, also if there is neither `serverUrl`
   *   nor the configuration's `publicUrl`
   */
  createInvite(options?: IVpnInviteOptions): Promise<IVpnInvite>;

  on<E extends keyof IVpnServerEvents>(event: E, listener: (...data: IVpnServerEvents[E]) => void): this;
  once<E extends keyof IVpnServerEvents>(event: E, listener: (...data: IVpnServerEvents[E]) => void): this;
  off<E extends keyof IVpnServerEvents>(event: E, listener: (...data: IVpnServerEvents[E]) => void): this;
  addListener<E extends keyof IVpnServerEvents>(
    event: E,
    listener: (...data: IVpnServerEvents[E]) => void,
  ): this;
  removeListener<E extends keyof IVpnServerEvents>(
    event: E,
    listener: (...data: IVpnServerEvents[E]) => void,
  ): this;
  prependListener<E extends keyof IVpnServerEvents>(
    event: E,
    listener: (...data: IVpnServerEvents[E]) => void,
  ): this;
  prependOnceListener<E extends keyof IVpnServerEvents>(
    event: E,
    listener: (...data: IVpnServerEvents[E]) => void,
  ): this;
}

/** A client that a server knows. */
export interface IVpnClientRegistration {
  /** 1–64 of `A-Z a-z 0-9 . _ -`: its `clientId`, of which there is one. */
  id: string;

  /** The public key that belongs to its `privateKey`. No other client may have it. */
  publicKey: string;

  /** A label for people: at most 64 characters, no control characters. */
  name?: string;

  /** An address of the subnet that is its own, whether it is connected or not. */
  assignedIp?: string;

  /**
   * Its limit, in bytes per second and direction: 1,000–10^11.
   *
   * @default the server's `defaultRateLimitBytesPerSec`
   */
  rateLimitBytesPerSec?: number;

  /**
   * What may pass at once after a pause, in bytes: at least 65,536. Needs `rateLimitBytesPerSec`.
   *
   * @default one second of the rate, and at least 65,536
   */
  burstBytes?: number;

  /** When it may connect no longer: ISO 8601, with the offset from UTC. A session then ends. */
  expiresAt?: string;

  /**
   * How many sessions it may have at once, 1–32. With 1, a new connection takes the place of the one before.
   *
   * @default 1
   */
  maxSessions?: number;

  /**
   * Whether it is shut out, as if it were not registered.
   *
   * @default false
   */
  disabled?: boolean;
}

/** A registered client, as its server tells it. */
export interface IVpnRegisteredClient extends IVpnClientRegistration {
  /** Whether it is connected now. */
  online: boolean;
}

/** What `updateClient()` changes; `null` removes a field. */
export type IVpnClientChanges = {
  [K in Exclude<keyof IVpnClientRegistration, 'id' | 'publicKey'>]?: IVpnClientRegistration[K] | null;
} & Partial<Pick<IVpnClientRegistration, 'publicKey'>>;

/** Options of `createInvite()`. */
export interface IVpnInviteOptions {
  /** What the server is to call a client that does not name itself. */
  name?: string;

  /**
   * How long the invite is good, in seconds: 60–31,536,000.
   *
   * @default 86400
   */
  expiresInSecs?: number;

  /**
   * How many clients may join with it, 1–1,000.
   *
   * @default 1
   */
  uses?: number;

  /**
   * Where clients reach the server: `wss://host[:port]/path` or `ws://…`.
   *
   * @default the configuration's `publicUrl`
   */
  serverUrl?: string;
}

export interface IVpnInvite {
  /**
   * `vpn://host[:port]/path#<server key>.<token>`, with a hash of the server's certificate at the end if the system
   * does not trust it; `vpn+ws://…` without TLS. Whoever has it can join.
   */
  url: string;

  id: string;
  expiresAt: string;
}

/** What a server asks its `authenticate` about. */
export interface IVpnAuthenticateRequest {
  /** The client's, if it has a key. It is let in only if it then proves to hold the private one. */
  publicKey?: string;

  /** The client's `token`, if it has one. */
  token?: string;

  /** The label that it gives itself. */
  name?: string;

  /** Where it connects from: `host:port`, or the address that a trusted proxy has forwarded. */
  remoteAddr: string;

  /** Aborted when the answer is of no use any more: the connection has gone, or the time is over. */
  signal: AbortSignal;
}

/** Who a client is, and what it gets; `null` turns it away (`unauthorized`). */
export type TVpnAuthenticateResult = IVpnAuthenticated | null;

/** A client that `authenticate` lets in. */
export interface IVpnAuthenticated {
  /**
   * 1–64 of `A-Z a-z 0-9 . _ -`. Whoever comes with the same one is the same client: the newer connection takes the
   * place of the older.
   */
  clientId: string;

  /** The label that the server shows. */
  name?: string;

  /** An address of the subnet, if a certain one. */
  assignedIp?: string;

  /** As in {@link IVpnClientRegistration}. */
  rateLimitBytesPerSec?: number;
  burstBytes?: number;
  maxSessions?: number;
}

/** The configuration of a server. Whatever is wrong with it is `invalid-config`, with the field's path. */
export interface IVpnServerConfig {
  /** `host:port` or `[v6]:port`. Port 0 picks a free one, which `getStatus().serverAddr` tells. */
  listenAddr: string;

  /** The server's private key. Keep it secret: see `VpnConfig.saveToFile()`. */
  privateKey: string;

  /** The public key that belongs to it. */
  publicKey: string;

  /** The VPN's network: an IPv4 CIDR, /8–/30. The server takes its first address. */
  subnet: string;

  /** The VPN's IPv6 network: a CIDR, /64–/125. The server takes `::1` of it. Requires an `mtu` of at least 1280. */
  subnet6?: string;

  /**
   * The certificate and its key: PEM text, or paths to it; both or none. Without them the server speaks plain
   * `ws://`, for a proxy in front. A relative path starts at the working directory, or in a file at its folder.
   * A key file that others than its owner may read is refused (`file-error`); one of root's may be readable by its
   * group, as Debian's `ssl-cert` has it.
   */
  tlsCert?: string;
  tlsKey?: string;

  /** Resolvers for the clients: IP addresses, 8 at most. */
  dns?: string[];

  /**
   * The tunnel's MTU in bytes, 576–65535. The smaller of both ends' holds.
   *
   * @default 1420
   */
  mtu?: number;

  /**
   * Seconds between two keepalives until a link's health is known, 5–120.
   *
   * @default 30
   */
  keepaliveIntervalSecs?: number;

  /**
   * Whether clients reach what the server reaches: masquerades the subnet, and turns IP forwarding on. No
   * connection of a client is given the server's listening port, nor one below 1024. Needs `nft`; without it:
   * `nat-unavailable`.
   *
   * @default false
   */
  enableNat?: boolean;

  /**
   * The limit that each session begins with, in bytes per second and direction: 1,000–10^11. See
   * `setClientRateLimit()`.
   *
   * @default none
   */
  defaultRateLimitBytesPerSec?: number;

  /**
   * What may pass at once after a pause, in bytes: at least 65,536. Needs `defaultRateLimitBytesPerSec`.
   *
   * @default one second of the rate, and at least 65,536
   */
  defaultBurstBytes?: number;

  /**
   * Who may connect: `'registered'` the `clients`, those of `addClient()` and of invites; `'open'` also whoever else
   * knows the public key; `'callback'` also whom `authenticate` lets in.
   *
   * @default 'callback' with `authenticate`, else 'registered' with `clients` (an empty list too), else 'open'
   */
  auth?: 'open' | 'registered' | 'callback';

  /** The clients that may connect. More can be registered while the server serves. */
  clients?: IVpnClientRegistration[];

  /**
   * Decides who a client is and whether it may connect. Only for a server in this process (`inprocess`); elsewhere
   * `invalid-config`. Asked at each connection that does not resume a session and whose key, if it has one, is not
   * registered. At most 64 questions are open at once, and 4 of one address; beyond, clients are told
   * `server-full`. Throwing means no, and emits a `warning`; so does taking longer than `authenticateTimeoutMs`.
   */
  authenticate?: (
    request: IVpnAuthenticateRequest,
  ) => TVpnAuthenticateResult | undefined | void | Promise<TVpnAuthenticateResult | undefined | void>;

  /**
   * How long `authenticate` may take, in milliseconds: 100–9,000.
   *
   * @default 5000
   */
  authenticateTimeoutMs?: number;

  /** Where clients reach the server, for invites: `wss://host[:port]/path` or `ws://…`. */
  publicUrl?: string;

  /**
   * How many clients to admit.
   *
   * @default what the subnet holds
   */
  maxClients?: number;

  /**
   * Whether clients reach each other.
   *
   * @default false
   */
  clientToClient?: boolean;

  /**
   * The only path on which to admit clients; others are answered 404.
   *
   * @default any
   */
  path?: string;

  /**
   * How many handshakes one source address, or IPv6 /64, may begin a second: 1–100,000. What is beyond is closed
   * before TLS, and such clients try again. Behind `trustedProxies` the address that they forward counts.
   *
   * @default 50
   */
  handshakesPerSecond?: number;

  /**
   * How many of them it may begin at once after a rest: 1–100,000.
   *
   * @default 400
   */
  handshakeBurst?: number;

  /**
   * The interface's name: 1–15 of `A-Z a-z 0-9 _ . -`. If it exists: `tun-name-in-use`.
   *
   * @default one that is free
   */
  tunName?: string;

  /**
   * Proxies whose `X-Forwarded-For`, and with `proxyProtocol` whose PROXY header, is believed: CIDRs.
   *
   * @default []
   */
  trustedProxies?: string[];

  /**
   * Whether connections from `trustedProxies` begin with a PROXY protocol header, of version 1 or 2, before TLS
   * or HTTP. It says whose connection it is; without it, such a connection is closed unanswered. All others are
   * served as ever. Needs `trustedProxies`.
   *
   * @default false
   */
  proxyProtocol?: boolean;

  /**
   * How long a session outlives its connection, in seconds: 0–86,400. Meanwhile the client is listed with
   * `online: false`, its address stays its own, and nothing is emitted; if it comes back, `client-resumed` is.
   *
   * @default 60
   */
  sessionGraceSecs?: number;

  /**
   * How long after a full handshake a session can be resumed, in seconds: 60–2,592,000. A client that comes
   * later gets a new session.
   *
   * @default 86400
   */
  ticketMaxAgeSecs?: number;

  /**
   * Congestion control of the connections that carry the tunnels: `'auto'` is BBR where the system allows it,
   * `'system'` what the system uses. The engine's own limit of delay holds in both.
   *
   * @default 'auto'
   */
  congestionControl?: 'auto' | 'system';

  /**
   * The folder for the journal by which a next start puts right what a killed process left on the host;
   * `null` keeps none.
   *
   * @default '/var/lib/smartvpn' for root, else null
   */
  stateDir?: string | null;
}

export interface IVpnServerStatistics extends IVpnStatistics {
  /** Now. */
  activeClients: number;

  /** Since `start()`. */
  totalConnections: number;
}

/** A client as its server sees it: `bytesReceived` is what the server received from it. */
export interface IVpnClientInfo {
  clientId: string;
  assignedIp: string;
  connectedSince: string;
  bytesSent: number;
  bytesReceived: number;
  packetsDropped: number;
  bytesDropped: number;
  lastKeepaliveAt?: string;
  keepalivesReceived: number;

  /** The limit in force, in bytes per second and direction; absent without one. */
  rateLimitBytesPerSec?: number;

  /** What may pass at once under that limit, in bytes. */
  burstBytes?: number;

  assignedIp6?: string;

  /**
   * Where it connects from, or last did: `host:port`, or the address that a trusted proxy has forwarded. Absent of a
   * client of an earlier process that has not come back yet.
   */
  remoteAddr?: string;

  /** The label that it has given itself. */
  name?: string;

  /** `false` while its session outlives its connection. */
  online?: boolean;
  drops?: TVpnDrops;
}

/** What passes between a client and its server: `bytesReceived` is what the server received from it. */
export interface IVpnClientTelemetry {
  clientId: string;
  assignedIp: string;
  lastKeepaliveAt?: string;
  keepalivesReceived: number;
  packetsDropped: number;
  bytesDropped: number;
  bytesReceived: number;
  bytesSent: number;

  /** The limit in force, in bytes per second and direction; absent without one. */
  rateLimitBytesPerSec?: number;

  /** What may pass at once under that limit, in bytes. */
  burstBytes?: number;

  drops?: TVpnDrops;

  /**
   * The link to this client, measured by the server's own keepalives; absent before the first was answered
   * or timed out.
   */
  quality?: IVpnConnectionQuality;
}

export interface IVpnKeypair {
  publicKey: string;
  privateKey: string;
}

// ----------------------------------------------------------------------------- configuration

/** Checks, reads and writes configurations. The checks are the same for Node, the daemon and files. */
export class VpnConfig {
  private constructor();

  /** @throws {VpnError} `invalid-config` with the field's `path` and what it must be */
  static validateClientConfig(config: unknown): asserts config is IVpnClientConfig;

  /** @throws {VpnError} `invalid-config` with the field's `path` and what it must be */
  static validateServerConfig(config: unknown): asserts config is IVpnServerConfig;

  /**
   * Reads a configuration from a JSON file of at most 1 MiB. Relative paths in it start at the file's folder, and
   * are absolute in what it resolves with. Does not check the fields; whoever is given the configuration does.
   *
   * @throws {VpnError} `file-error` with the system's error as `cause`, also for a file that others than its owner
   *   may read while it holds a private key, a token or a proxy's password (the message ends in the command that
   *   mends it); `invalid-config` if it holds no JSON object
   */
  static loadFromFile<T = IVpnClientConfig | IVpnServerConfig>(path: string | URL): Promise<T>;

  /**
   * Writes a configuration to a JSON file that only its owner can read (mode 0600). Whoever reads it meanwhile
   * finds the old one or the new one.
   *
   * @throws {VpnError} `file-error` with the system's error as `cause`; `invalid-config` if it is no plain data
   */
  static saveToFile(path: string | URL, config: object): Promise<void>;
}

// --------------------------------------------------------------------------------- services

/** The system that this process runs on. */
export type TVpnPlatform = 'linux' | 'macos' | 'windows' | 'unknown';

/** What a service manager is to run. Paths are absolute; line breaks and control characters are refused. */
export interface IVpnServiceOptions {
  /** The daemon: `smartvpn_daemon`. Without quotes, backslashes, colons and dollar signs. */
  binaryPath: string;

  /**
   * Where the daemon is to listen for those who control it, as `/run/smartvpn/server.sock`; 107 bytes at most.
   * A folder below `/run` is made by the service manager; another must be there, and be nobody else's.
   */
  socketPath: string;

  mode: 'client' | 'server';

  /** The configuration to run from the start. Without it the daemon waits for a program to give it one. */
  configPath?: string;

  /**
   * Whose process it is: 1–31 of `A-Z a-z 0-9 _ -`, not beginning with a digit or `-`. The user must be able to
   * read the configuration and what it names; and only root keeps a journal without `stateDir`.
   *
   * @default root, with CAP_NET_ADMIN and CAP_NET_BIND_SERVICE and no other power
   */
  user?: string;
}

/** Writes service units for the daemon, as text. Nothing is installed. */
export class VpnInstaller {
  private constructor();

  static detectPlatform(): TVpnPlatform;

  /**
   * A unit for systemd, such as `/etc/systemd/system/smartvpn-server.service`: ready when the VPN is, watched,
   * restarted after a failure, and confined to what the daemon needs.
   *
   * @throws {VpnError} `invalid-argument`
   */
  static generateSystemdUnit(options: IVpnServiceOptions): string;

  /**
   * A property list for launchd.
   *
   * @throws {VpnError} `invalid-argument`
   */
  static generateLaunchdPlist(options: IVpnServiceOptions): string;

  /**
   * The one of both that this platform takes.
   *
   * @throws {VpnError} `invalid-argument`; `unsupported-platform` where there is neither
   */
  static generateServiceUnit(options: IVpnServiceOptions): string;
}

// ------------------------------------------------------------------------------------ errors

/** Every rejection and every throw of this package. `instanceof` holds across copies of the package. */
export class VpnError extends Error {
  constructor(code: TVpnErrorCode, message: string, details?: { path?: string; cause?: unknown });

  readonly name: 'VpnError';

  /** What to match on. */
  readonly code: TVpnErrorCode;

  /** The configuration field at fault, such as `reconnect.baseDelayMs`; `''` is the whole of it. */
  readonly path?: string;

  /** The system's error, or the reason of an abort signal. */
  readonly cause?: unknown;
}

/** Why something failed. The strings are stable; later versions may add some. */
export type TVpnErrorCode =
  // Configuration and use.
  | 'invalid-config'
  | 'invalid-argument'
  | 'not-running'
  | 'already-running'
  | 'already-connected'
  | 'not-connected'
  | 'aborted'
  | 'unknown-client'
  | 'unsupported-platform'
  | 'unsupported-method'
  | 'wrong-mode'
  | 'file-error'
  // This host.
  | 'permission-denied'
  | 'tun-unavailable'
  | 'tun-name-in-use'
  | 'address-in-use'
  | 'subnet-conflict'
  | 'nat-unavailable'
  | 'route-failed'
  | 'dns-failed'
  // The way to the server.
  | 'dns-lookup-failed'
  | 'connection-refused'
  | 'unreachable'
  | 'timeout'
  | 'proxy-error'
  | 'tls-untrusted'
  | 'tls-expired'
  | 'tls-name-mismatch'
  | 'tls-error'
  | 'not-a-vpn-server'
  | 'server-key-mismatch'
  | 'protocol-error'
  | 'connection-lost'
  | 'dead-peer'
  // What the server said.
  | 'unsupported-version'
  | 'unauthorized'
  | 'bad-request'
  | 'pool-exhausted'
  | 'server-full'
  | 'shutting-down'
  | 'ticket-expired'
  | 'ticket-invalid'
  | 'client-disconnect'
  | 'kicked'
  | 'replaced'
  | 'idle-timeout'
  | 'removed'
  // The way to the daemon.
  | 'control-disconnected'
  | 'control-unavailable'
  | 'daemon-exited'
  // A fault of this package; please report it.
  | 'internal';

export {};
