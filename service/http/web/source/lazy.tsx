// A part of a room that is loaded when it is shown first; `placeholder`, or nothing, in its place until then.

import type { ComponentChildren, ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

export function lazy<P extends object>(load: () => Promise<ComponentType<P>>): ComponentType<P> {
  let loaded: ComponentType<P> | null = null;
  return function Lazy(props: P & { placeholder?: ComponentChildren }) {
    const [, setLoaded] = useState(loaded !== null);
    useEffect(() => {
      if (!loaded) load().then((component) => { loaded = component; setLoaded(true); }, () => {});
    }, []);
    const Loaded = loaded as ComponentType<P> | null;
    return Loaded ? <Loaded {...props} /> : <>{props.placeholder}</>;
  };
}
