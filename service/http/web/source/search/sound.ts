// The sound of a clip in the browser: its waveform, and a part of it as a file.

const MAX_BYTES = 256e6; // decoded at once: 5 minutes of film, an hour of sound

const decoded = new WeakMap<File, Promise<AudioBuffer | null>>();

/** The decoded sound; null if this browser cannot decode it. */
export function readSound(file: File): Promise<AudioBuffer | null> {
  const known = decoded.get(file);
  if (known) return known;
  const made = decode(file);
  decoded.set(file, made);
  return made;
}

async function decode(file: File): Promise<AudioBuffer | null> {
  if (file.size > MAX_BYTES) return null;
  const context = new OfflineAudioContext(1, 1, 48_000);
  return file.arrayBuffer().then((bytes) => context.decodeAudioData(bytes)).catch(() => null);
}

const NUM_PEAKS = 1000;

/** The highest and the lowest sample of each pixel of the first channel. */
export function peaksOf(sound: AudioBuffer): number[][] {
  const samples = sound.getChannelData(0);
  const step = Math.max(1, Math.ceil(samples.length / NUM_PEAKS));
  const [high, low]: [number[], number[]] = [[], []];
  for (let at = 0; at < samples.length; at += step) {
    let [least, most] = [0, 0];
    for (const sample of samples.subarray(at, at + step)) {
      if (sample > most) most = sample;
      else if (sample < least) least = sample;
    }
    high.push(most);
    low.push(least);
  }
  return [high, low];
}

/** The part [start, end) of a file's sound as 16-bit WAV; null if this browser cannot decode it. */
export async function cutSound(file: File, [start, end]: [number, number]): Promise<Blob | null> {
  const sound = await readSound(file);
  if (!sound) return null;
  const { numberOfChannels, sampleRate } = sound;
  const [first, last] = [Math.floor(start * sampleRate), Math.min(Math.ceil(end * sampleRate), sound.length)];
  const channels = Array.from({ length: numberOfChannels }, (_, number) => sound.getChannelData(number));
  const data = new Int16Array((last - first) * numberOfChannels);
  for (let at = first, to = 0; at < last; at++) {
    for (const channel of channels) data[to++] = Math.round(Math.min(Math.max(channel[at]!, -1), 1) * 32_767);
  }
  return new Blob([header(data.byteLength, numberOfChannels, sampleRate), data], { type: "audio/wav" });
}

function header(numBytes: number, numChannels: number, sampleRate: number): ArrayBuffer {
  const view = new DataView(new ArrayBuffer(44));
  const write = (at: number, letters: string) => [...letters].forEach((letter, number) => view.setUint8(at + number, letter.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + numBytes, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, numChannels, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * numChannels * sampleRate, true);
  view.setUint16(32, 2 * numChannels, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, numBytes, true);
  return view.buffer as ArrayBuffer;
}
