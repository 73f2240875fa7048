// A part of a room that is loaded when it is shown first; `placeholder`, or nothing, in its place until then.

import type { ComponentChildren, ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

export function lazy<P extends object>(load: () => Promise<ComponentType<P>>): ComponentType<P> {
  let loaded: ComponentType<P> | null = null;
  let loading: Promise<void> | null = null;
  return function Lazy(props: P & { placeholder?: ComponentChildren }) {
    const [, setLoaded] = useState(loaded !== null);
    const [isGone, setGone] = useState(false);
    loading ??= load().then((component) => { loaded = component; }, () => { loading = null; }); // tried again when it is shown again
    useEffect(() => {
      let isThere = true;
      void loading?.then(() => isThere && (loaded ? setLoaded(true) : setGone(true)));
      return () => { isThere = false; };
    }, []);
    const Loaded = loaded as ComponentType<P> | null;
    if (isGone) return <p class="problem" role="alert">This part of the page could not be loaded: the service does not answer. Open it again later.</p>;
    return Loaded ? <Loaded {...props} /> : <>{props.placeholder}</>;
  };
}
