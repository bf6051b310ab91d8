// One instance: a unit mesh scaled, pitched about its centre, turned and moved.
in vec3 vertex, normal;
in vec3 place, size;
in vec4 attitude;                       // yaw, pitch, material, variant
in vec3 paint;
in vec2 ids;                            // tag, instance
out vec3 world, world_normal, local, local_normal;
flat out vec4 kind;
flat out vec3 color;
flat out vec2 id;

vec3 pitched(vec3 v, float q) {
  return vec3(v.x * cos(q) + v.z * sin(q), v.y, -v.x * sin(q) + v.z * cos(q));
}

void main() {
  float y = attitude.x;
  mat3 turn = mat3(cos(y), sin(y), 0, -sin(y), cos(y), 0, 0, 0, 1);
  local = vertex * size;
  local_normal = normal;
  world = turn * pitched(local, attitude.y) + place;
  world_normal = turn * pitched(normal / size, attitude.y);
  kind = attitude;
  color = paint;
  id = ids;
  gl_Position = view_projection * vec4(world, 1);
}
