// Asks for what the page shows first while the rest of the page is on its way: this is the script inside of the page.

interface Early {
  numAssets: number;
  answers: Map<string, Promise<Response | null>>; // null if nothing answered
}

{
  const key = sessionStorage.getItem("foley-key");
  const init: RequestInit = { cache: "no-store", headers: key ? { Authorization: `Bearer ${key}` } : {} };
  const numAssets = Math.max(30, Math.ceil((innerWidth * innerHeight) / 25_000)); // a card takes twice as much
  const addresses = ["/v1/library", ...(location.hash.startsWith("#/library") ? [`/v1/assets?limit=${numAssets}`] : [])];
  const answers = new Map(addresses.map((address) => [address, fetch(address, init).catch(() => null)]));
  Object.assign(globalThis, { early: { numAssets, answers } satisfies Early });
}
