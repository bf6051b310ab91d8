// One triangle over the whole picture; how much of the sun is not hidden, once for all of it.
in vec2 corner;
uniform sampler2D scene;
uniform vec3 sun_at;                    // place in the picture, -1 … 1; third above 0 when ahead
uniform float flare;
out vec2 at;
flat out float sun_seen;

void main() {
  at = corner;
  gl_Position = vec4(corner, 0.99999, 1);
  sun_seen = 0.0;
  if (flare > 0.0 && sun_at.z > 0.0) {
    vec2 beyond = max(abs(sun_at.xy) - 1.0, 0.0);
    for (int i = 0; i < 9; ++i) {
      vec2 p = clamp(sun_at.xy + 0.03 * vec2(i % 3 - 1, i / 3 - 1), -0.99, 0.99);
      vec3 c = texture(scene, p * 0.5 + 0.5).rgb;
      sun_seen += smoothstep(0.55, 0.95, dot(c, vec3(0.3, 0.5, 0.2))) / 9.0;
    }
    sun_seen *= exp(-3.0 * length(beyond));
  }
}
